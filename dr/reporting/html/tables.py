"""Tables that a page shows and people sort, and how numbers are spelled in them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NOTHING = "–"
"""Stands where there is no value."""


@dataclass(frozen=True)
class Score:
    """A value, and the bounds of its interval where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cell:
    """What a cell shows, below it in small letters `note`, and what its column is sorted by.

    `order` is None for text, and `nan` for a number that there is not: such rows stay last.
    """

    text: str
    order: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """`columns` are headers; `numeric` says of each whether its cells are numbers.

    The first column names the rows; those whose numbers are in `strong` are set in bold.
    """

    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    strong: tuple[int, ...] = ()


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    strong: tuple[int, ...] = (),
) -> Table:
    """A table whose columns are numeric where all their cells are."""
    cells = tuple(tuple(row) for row in rows)
    numeric = tuple(
        bool(cells) and all(row[place].order is not None for row in cells)
        for place in range(len(columns))
    )
    return Table(
        caption=caption, columns=tuple(columns), numeric=numeric, rows=cells, strong=strong
    )


def text(value: object) -> Cell:
    """A cell of text."""
    return Cell(str(value))


def number(value: float | None, form: str = ".4f", *, mark: str = "") -> Cell:
    """A cell of a number, `mark` behind it; None and `nan` are no value."""
    if value is None or not math.isfinite(value):
        return Cell(NOTHING, math.nan)
    return Cell(f"{value:{form}}{mark}", float(value))


def score(given: Score | None, form: str = ".4f", *, mark: str = "") -> Cell:
    """A cell of a score, with its interval below it where it has one."""
    if given is None:
        return number(None)
    cell = number(given.value, form, mark=mark)
    return Cell(cell.text, cell.order, interval(given, form))


def interval(given: Score, form: str = ".4f") -> str:
    """`0.71 to 0.78`, nothing where the score has no interval."""
    if given.low is None or given.high is None:
        return ""
    return f"{given.low:{form}} to {given.high:{form}}"


def seconds(value: float) -> str:
    """A duration as people say it: `41 s`, `3.2 min`, `1.5 h`."""
    if value < 90:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"
