"""Specifications as Vega-Lite itself compiles them."""

from itertools import pairwise
from typing import Any

import pytest
from vl_convert import vegalite_to_vega

from dr.reporting.html import charts
from dr.reporting.html.charts import MEAN, Series, lines_by_epoch

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


@pytest.mark.parametrize("count", [1, 2, 40])
def test_lines_by_epoch_draw_lines_rings_and_a_band_to_hover(count: int) -> None:
    rows = epochs(count, part="held out") + epochs(count, part="training")
    kept = [rows[0]]
    spec = lines_by_epoch(rows, FOLDS, description="d", y="loss", form=".2f", kept=kept)
    found = marks(spec)
    assert "line" in found and "rect" in found and "symbol" in found
    low, high = spec["encoding"]["x"]["scale"]["domain"]
    assert low < high
    bands = spec["layer"][-1]["data"]["values"]
    assert (bands[0]["from"], bands[-1]["to"]) == (low, high)
    assert all(one["to"] == other["from"] for one, other in pairwise(bands))


def test_hovering_tells_every_line_and_what_is_missing() -> None:
    rows = [row for row in epochs(2) if (row["series"], row["epoch"]) != ("1", 2)]
    hover = lines_by_epoch(rows, FOLDS, description="d", y="y", form=".2f")["layer"][-1]
    titles = [field["title"] for field in hover["encoding"]["tooltip"]]
    assert titles == ["epoch", "fold 0", "fold 1", "mean"]
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


def test_names_are_values_and_never_parts_of_an_expression() -> None:
    hostile = "'] || alert(1) || ['"
    rows = [
        {
            "name": hostile,
            "difference": 0.1,
            "low": 0.0,
            "high": 0.2,
            "p": "0.1",
            "verdict": hostile,
            "clear": False,
        }
    ]
    compiled = vegalite_to_vega(charts.forest(rows, description="d", title="t"))
    signals: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            signals.extend(str(value[key]) for key in ("signal", "expr", "test") if key in value)
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(compiled)
    assert signals and not any("alert" in signal for signal in signals)


def test_the_other_charts_compile() -> None:
    grades = ["0 none", "1 mild"]
    square = [
        {"label": label, "grade": grade, "count": "3", "share": 0.5, "percent": "50%"}
        for label in grades
        for grade in grades
    ]
    assert marks(charts.confusion(square, description="d", grades=grades)).count("text") == 2
    bars = [{"grade": "0 none", "measure": "recall", "value": 0.5}]
    assert "rect" in marks(charts.bars_by_grade(bars, description="d", measures={"recall": "red"}))
    point = {"bin": "0 to 1", "confidence": 0.5, "accuracy": 0.4, "count": 7}
    assert {"rule", "symbol"} <= set(marks(charts.reliability_diagram([point], description="d")))
    curve = [
        {"place": place, "false": place, "sensitivity": place, "threshold": 1 - place}
        for place in (0, 1)
    ]
    found = marks(charts.roc_curve(curve, curve[0], description="d"))
    assert found.count("line") == 2 and "path" in found
    stage = [{"name": "training", "value": 3.0, "text": "3 s"}]
    assert {"rect", "text"} <= set(marks(charts.bars(stage, description="d", title="time")))
