"""Specifications as Vega-Lite itself compiles them."""

from itertools import pairwise
from typing import Any

import pytest
from vl_convert import vegalite_to_vega

from dr.reporting.html import grade_charts, row_charts
from dr.reporting.html.charts import Series
from dr.reporting.html.epoch_charts import MEAN, lines_by_epoch

FOLDS = [Series("0", "fold 0", 0), Series("1", "fold 1", 1), Series(MEAN, "mean", None)]


def epochs(count: int, *, part: str | None = None) -> list[dict[str, Any]]:
    extra = {} if part is None else {"part": part}
    return [
        {"epoch": epoch, "series": one.key, "value": epoch / 10, **extra}
        for epoch in range(1, count + 1)
        for one in FOLDS
    ]


def marks(spec: dict[str, Any]) -> list[str]:
    def within(parts: list[dict[str, Any]]) -> list[str]:
        return [name for part in parts for name in (part["type"], *within(part.get("marks", [])))]

    return within(vegalite_to_vega(spec)["marks"])


def axis_titles(spec: dict[str, Any]) -> set[str]:
    return {axis["title"] for axis in vegalite_to_vega(spec)["axes"] if axis.get("title")}


@pytest.mark.parametrize("count", [1, 2, 40])
def test_lines_by_epoch_draw_lines_rings_and_a_band_to_hover(count: int) -> None:
    rows = epochs(count, part="held out") + epochs(count, part="training")
    kept = [rows[0]]
    spec = lines_by_epoch(rows, FOLDS, description="d", y="loss", form=".2f", kept=kept)
    found = marks(spec)
    assert axis_titles(spec) == {"epoch", "loss"}
    assert "line" in found and "rect" in found and "symbol" in found
    low, high = spec["encoding"]["x"]["scale"]["domain"]
    assert low < high
    bands = spec["layer"][-1]["data"]["values"]
    assert (bands[0]["from"], bands[-1]["to"]) == (low, high)
    assert all(one["to"] == other["from"] for one, other in pairwise(bands))


def test_hovering_tells_every_line_and_what_is_missing() -> None:
    rows = [row for row in epochs(2) if (row["series"], row["epoch"]) != ("1", 2)]
    spec = lines_by_epoch(rows, FOLDS, description="d", y="y", form=".2f")
    assert spec["usermeta"]["labels"] == {"c0": "fold 0", "c1": "fold 1", "c2": "mean"}
    hover = spec["layer"][-1]
    fields = [given["field"] for given in hover["encoding"]["tooltip"]]
    assert fields == ["epoch", "c0", "c1", "c2"]
    shown = hover["data"]["values"][1]
    assert [shown["c0"], shown["c1"], shown["c2"]] == ["0.20", "–", "0.20"]


def test_the_eleventh_line_is_told_from_the_first_by_its_dashes() -> None:
    first, eleventh = Series("r0", "a", 0), Series("r10", "b", 10)
    assert first.paint == eleventh.paint
    assert (first.dashed, eleventh.dashed) == (False, True)
    rows = [{"epoch": 1, "series": one.key, "value": 1.0} for one in (first, eleventh)]
    spec = lines_by_epoch(rows, [first, eleventh], description="d", y="y", form=".2f")
    condition = spec["layer"][0]["encoding"]["strokeDash"]["condition"]
    assert "['r10']" in condition["test"]
    marks(spec)


def expressions(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for inner in value for text in expressions(inner)]
    if not isinstance(value, dict):
        return []
    own = [str(value[key]) for key in ("signal", "expr", "test") if key in value]
    return own + expressions(list(value.values()))


def test_names_are_values_and_never_parts_of_an_expression() -> None:
    hostile = "'] || alert(1) || ['"
    numbers = {"difference": 0.1, "low": 0.0, "high": 0.2, "clear": False}
    row = {"name": hostile, "p": "0.1", "verdict": hostile, **numbers}
    series = [Series("r0", hostile, 0)]
    lines = [{"epoch": 1, "series": "r0", "value": 1.0}]
    for spec in (
        row_charts.forest([row], description="d", title="t"),
        lines_by_epoch(lines, series, description="d", y="y", form=".2f"),
        row_charts.bars(
            [{"name": hostile, "value": 1.0, "text": hostile}], description="d", title="t"
        ),
    ):
        found = expressions(vegalite_to_vega(spec))
        assert found and not any("alert" in text for text in found)


def test_the_other_charts_compile() -> None:
    grades = ["0 none", "1 mild"]
    square = [
        {"label": label, "grade": grade, "count": "3", "share": 0.5, "percent": "50%"}
        for label in grades
        for grade in grades
    ]
    spec = grade_charts.confusion(square, description="d", grades=grades)
    assert axis_titles(spec) == {"predicted grade", "label"}
    assert marks(spec).count("text") == 2
    bar = {"grade": "0 none", "measure": "recall", "value": 0.5}
    spec = grade_charts.bars_by_grade([bar], description="d", measures={"recall": "red"})
    assert axis_titles(spec) == {"grade", "share"}
    assert "rect" in marks(spec)
    point = {"bin": "0 to 1", "confidence": 0.5, "accuracy": 0.4, "count": 7}
    spec = grade_charts.reliability_diagram([point], description="d")
    assert axis_titles(spec) == {"mean probability of the predicted grade", "share that is right"}
    assert {"rule", "symbol"} <= set(marks(spec))
    curve = [
        {"place": place, "false": place, "sensitivity": place, "threshold": 1 - place}
        for place in (0, 1)
    ]
    spec = grade_charts.roc_curve(curve, curve[0], description="d")
    assert axis_titles(spec) == {"1 - specificity", "sensitivity"}
    assert marks(spec).count("line") == 2 and "path" in marks(spec)
    stage = {"name": "training", "value": 3.0, "text": "3 s"}
    assert {"rect", "text"} <= set(marks(row_charts.bars([stage], description="d", title="time")))


def test_the_axis_of_a_forest_tells_the_difference_alone() -> None:
    numbers = {"difference": 0.1, "low": 0.0, "high": 0.2, "clear": True}
    row = {"name": "a", "p": "0.1", "verdict": "better", **numbers}
    spec = row_charts.forest([row], description="d", title="difference in QWK")
    assert axis_titles(spec) == {"difference in QWK"}
