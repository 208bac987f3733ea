"""`python -m dr.compare`: the runs under a folder, best first."""

import shutil
import sys
from pathlib import Path

from dr.compose import run_door
from dr.config import CompareConfig


def main(config: CompareConfig) -> None:
    """Print the comparison to stdout."""
    from dr.reporting.comparison import compare, render_table
    from dr.reporting.runs import read_runs

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    comparison = compare(read_runs(Path(config.outputs)))
    print(render_table(comparison, width=width, encoding=sys.stdout.encoding))


if __name__ == "__main__":
    run_door("compare", schema=CompareConfig, check=lambda _: [], main=main)
