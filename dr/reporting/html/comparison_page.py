"""The page of several runs beside each other."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dr.reporting.html.charts import Chart, Row, Series, config
from dr.reporting.html.epoch_charts import lines_by_epoch
from dr.reporting.html.page import own_version, render
from dr.reporting.html.row_charts import forest
from dr.reporting.html.run_files import History, read_histories
from dr.reporting.html.tables import Cell, Score, Table, interval, number, score, table, text

Value = str | float | Score | Cell | None
"""What a row of the table holds: text, a number, a score with its interval, or nothing."""

MOST_CURVES = 20
"""So many runs are drawn over each other at most: the first that are given."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a run (or setting) lies from what it is compared with, with its interval.

    `p` is None where there is none; `told_apart` says whether `verdict` calls it a difference.
    """

    name: str
    difference: float
    low: float
    high: float
    p: float | None
    verdict: str
    told_apart: bool


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A run's means over its folds by epoch, float `[epochs]` each, `nan` where there is none."""

    name: str
    epochs: Sequence[float]
    learning_rate: Sequence[float]
    qwk: Sequence[float]
    loss: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class ComparisonData:
    """What the page of a comparison shows.

    `rows` have a value a column, the first names the row, and come in the order they are shown
    in; `notes` are what a reader must know, the gravest first. `differences` are those from
    `baseline`, in words, of the score `metric`; `curves` are drawn over each other.
    """

    title: str = "Comparison of runs"
    lead: str = ""
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    notes: Sequence[str] = ()
    metric: str = "QWK"
    baseline: str = "the best run"
    differences: Sequence[Difference] = ()
    curves: Sequence[Curve] = ()


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """What the template of a comparison shows."""

    title: str
    lead: str
    table: Table
    notes: list[str]
    differences: Chart | None
    series: list[Series]
    curves: list[Chart]
    curves_note: str
    footer: str

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Anchors and titles of the sections that the page has."""
        known = {
            "runs": ("Runs", True),
            "differences": ("Differences", self.differences),
            "curves": ("Curves", self.curves),
        }
        return [(key, title) for key, (title, there) in known.items() if there]


def comparison_page(data: ComparisonData) -> str:
    """The page of a comparison as HTML. Raises ValueError where a row does not fit the columns."""
    for row in data.rows:
        if len(row) != len(data.columns):
            raise ValueError(f"a row has {len(row)} values for {len(data.columns)} columns: {row}")
    series = curve_series(data.curves[:MOST_CURVES])
    rows = [[_cell(value) for value in row] for row in data.rows]
    page = ComparisonPage(
        title=data.title,
        lead=data.lead,
        table=table(data.title, data.columns, rows),
        notes=list(data.notes),
        differences=_differences(data) if data.differences else None,
        series=series,
        curves=_curves(data.curves[:MOST_CURVES], series),
        curves_note=_curves_note(data),
        footer=f"This page was written by dr {own_version()} and holds all it shows.",
    )
    return render("comparison.html.j2", page=page, chart_config=config())


def mean_curve(folder: Path) -> Curve | None:
    """The curve of a run folder; None where no epoch is finished.

    It covers the epochs that all of its folds have that have begun. Raises ValueError where a
    `history.csv` cannot be read.
    """
    histories = list(read_histories(folder).values())
    if not histories:
        return None
    shortest = min((history["epoch"] for history in histories), key=len)
    rate, qwk, loss = (
        _mean(histories, column, len(shortest)) for column in ("learning_rate", "qwk", "loss")
    )
    return Curve(name=folder.name, epochs=shortest.tolist(), learning_rate=rate, qwk=qwk, loss=loss)


def _mean(histories: Sequence[History], column: str, epochs: int) -> list[float]:
    nothing = np.full(epochs, math.nan)
    values = [history.get(column, nothing)[:epochs] for history in histories]
    means: list[float] = np.mean(values, axis=0).tolist()
    return means


def _cell(value: Value) -> Cell:
    match value:
        case Cell():
            return value
        case Score():
            return score(value)
        case str():
            return text(value)
        case int():
            return number(value, ",d")
    return number(value)


def _differences(data: ComparisonData) -> Chart:
    names = _unique([one.name for one in data.differences])
    rows: list[Row] = [
        {
            "name": name,
            "difference": one.difference,
            "low": one.low,
            "high": one.high,
            "p": _p_value(one.p),
            "verdict": one.verdict,
            "clear": one.told_apart,
        }
        for name, one in zip(names, data.differences, strict=True)
    ]
    apart = sum(one.told_apart for one in data.differences)
    said = f"{apart} of {len(rows)} are told apart from {data.baseline}."
    return Chart(
        title=f"Difference in {data.metric} from {data.baseline}",
        caption=f"A point is a difference, its line the interval. {said} Those in gray are not.",
        spec=forest(rows, description=f"Forest plot. {said}", title=f"difference in {data.metric}"),
        table=_difference_table(data),
        wide=True,
    )


def _unique(names: Sequence[str]) -> list[str]:
    """Names, numbered where several are the same: a chart has one row a name."""
    often, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name} ({seen[name]})" if often[name] > 1 else name)
    return unique


def _p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _difference_table(data: ComparisonData) -> Table:
    rows = [
        [
            text(one.name),
            number(one.difference, "+.4f"),
            Cell(interval(Score(one.difference, one.low, one.high), "+.4f"), one.low),
            Cell(_p_value(one.p), math.nan if one.p is None else one.p),
            text(one.verdict),
        ]
        for one in data.differences
    ]
    columns = ["compared", f"difference in {data.metric}", "interval", "p", "verdict"]
    return table(f"Differences from {data.baseline}", columns, rows)


def curve_series(curves: Sequence[Curve]) -> list[Series]:
    """A series a run, in their order."""
    return [Series(f"r{place}", curve.name, place) for place, curve in enumerate(curves)]


def _curves(curves: Sequence[Curve], series: Sequence[Series]) -> list[Chart]:
    found = [
        _curve(curves, series, "qwk", "QWK", "Mean over the folds, on held-out photographs."),
        _curve(curves, series, "loss", "Loss", "Mean over the folds, on held-out photographs."),
        _curve(curves, series, "learning_rate", "Learning rate", "At the end of each epoch."),
    ]
    return [chart for chart in found if chart is not None]


def _curve(
    curves: Sequence[Curve], series: Sequence[Series], column: str, title: str, caption: str
) -> Chart | None:
    rows: list[Row] = [
        {"epoch": int(epoch), "series": one.key, "value": float(f"{value:.6g}")}
        for one, curve in zip(series, curves, strict=True)
        for epoch, value in zip(curve.epochs, getattr(curve, column), strict=True)
        if math.isfinite(value)
    ]
    if not rows:
        return None
    small = column == "learning_rate"
    spec = lines_by_epoch(
        rows,
        series,
        description=f"{title} by epoch, a line a run.",
        y=title if title.isupper() else title.lower(),
        form=".3g" if small else ".4f",
        axis_form=".1e" if small else ".2f",
    )
    return Chart(title=title, caption=caption, spec=spec, series=True, wide=column == "qwk")


def _curves_note(data: ComparisonData) -> str:
    left_out = len(data.curves) - MOST_CURVES
    return f"The first {MOST_CURVES} runs; {left_out} more are not drawn." if left_out > 0 else ""
