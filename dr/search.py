"""`python -m dr.search`: search settings of a training, fold by fold."""

from dr.checks import check_search
from dr.compose import run_door
from dr.config import SearchConfig


def main(config: SearchConfig) -> float | None:
    """Search, print what came of it to stdout, and return the best score.

    Raises ValueError, after the summary, where no trial came to its end and none is under way.
    """
    from dr.searching.results import RUNNING, describe
    from dr.searching.search import search

    result = search(config)
    print(describe(result), flush=True)
    if result.best is not None:
        return result.best.score
    if not result.of(RUNNING):
        raise ValueError(f"{result.folder}: no trial came to its end; raise trials={config.trials}")
    return None


if __name__ == "__main__":
    run_door("search", schema=SearchConfig, check=check_search, main=main)
