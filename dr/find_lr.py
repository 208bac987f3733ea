"""`python -m dr.find_lr`: a learning-rate range test, drawn, with a suggested rate."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from dr.checks import check_find_lr
from dr.compose import run_door
from dr.config import FindLrConfig

if TYPE_CHECKING:
    from dr.training.lr_range import LrRange, Suggestion

_log = logging.getLogger(__name__)


def main(config: FindLrConfig) -> float:
    """Try the rates, write the picture and its numbers, and print and return the suggested rate.

    Raises ValueError, after the files are written, where the loss falls at no rate.
    """
    picture = _picture(config)
    from dr.training.lr_range import find_lr, suggest

    _log.info("dr.find_lr: schedule, epochs, select, test and freeze_epochs play no part")
    tried = find_lr(config)
    found = suggest(tried, steps=config.steps)
    _write(tried, found, picture)
    if found is None:
        raise ValueError(
            f"the loss falls at no rate from {config.lowest_lr:g} to {tried.rates[-1]:g} (see "
            f"{picture}); try another range with lowest_lr, highest_lr, or more steps"
        )
    if not tried.diverged and found.lowest >= 0.8 * config.highest_lr:
        _log.warning("highest_lr=%g: the loss still falls there; raise it", config.highest_lr)
    print(describe(found))
    print(f"{picture}\n{picture.with_suffix('.csv')}")
    return found.steepest


def describe(found: "Suggestion") -> str:
    """The suggestion in two lines."""
    return (
        f"steepest descent: schedule.max_lr={found.steepest:.2g}\n"
        f"lowest loss {found.loss:.4g} at {found.lowest:.2g}; a tenth of that rate: "
        f"{found.lowest / 10:.2g}"
    )


def _picture(config: FindLrConfig) -> Path:
    if config.out is None:
        return Path("find_lr.png")
    path = Path(config.out)
    there = [one for one in (path, path.with_suffix(".csv")) if one.exists()]
    if there and not config.overwrite:
        raise ValueError(f"out={path}: {there[0]} is there already; add overwrite=true")
    if not path.parent.is_dir():
        raise ValueError(f"out={path}: there is no folder {path.parent}; make it first")
    return path


def _write(tried: "LrRange", found: "Suggestion | None", picture: Path) -> None:
    from dr.files import write_csv
    from dr.reporting.lr_range import draw_lr_range

    columns = ("learning_rate", "loss", "smoothed")
    values = zip(tried.rates, tried.losses, tried.smoothed, strict=True)
    rows = [{name: f"{x:.6g}" for name, x in zip(columns, row, strict=True)} for row in values]
    write_csv(picture.with_suffix(".csv"), columns, rows)
    marks = {} if found is None else {"steepest": found.steepest, "lowest / 10": found.lowest / 10}
    draw_lr_range(
        picture, rates=tried.rates, losses=tried.losses, smoothed=tried.smoothed, marks=marks
    )


if __name__ == "__main__":
    run_door("find_lr", schema=FindLrConfig, check=check_find_lr, main=main)
