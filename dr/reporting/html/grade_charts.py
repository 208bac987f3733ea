"""Charts of predictions: confusion, bars by grade, reliability, ROC."""

from collections.abc import Mapping, Sequence
from typing import Any

from dr.reporting.html.charts import (
    ACCENT,
    INK,
    MUTED,
    Row,
    Spec,
    layer,
    nominal,
    of,
    plot,
    quantity,
    share,
)

_SHORT = {"labelExpr": "split(datum.label, ' ')[0]", "labelAngle": 0}
"""Of a grade's name the number, where names side by side need more room than there is."""


def confusion(rows: Sequence[Row], *, description: str, grades: Sequence[str]) -> Spec:
    """A square a pair of grades, shaded by its share of the row.

    `rows` have `label`, `grade` (each one of `grades`), `count`, `share` in [0, 1] and `percent`,
    the share as text.
    """
    bare: Spec = {"ticks": False, "domain": False}
    columns = {**bare, **_SHORT, "orient": "top"}
    shade = {"domain": [0, 1], "range": [0.04, 1]}
    square = {"type": "rect", "color": "var(--heat)", "stroke": "var(--paper)"}
    return plot(
        rows,
        description=description,
        height=360,
        encoding={
            "x": nominal("grade", "predicted grade", sort=list(grades), axis=columns),
            "y": nominal("label", "label", sort=list(grades), axis=bare),
            "tooltip": [
                nominal("label"),
                nominal("grade", "predicted grade"),
                nominal("count", "photographs"),
                nominal("percent", "of this label"),
            ],
        },
        layer=[
            layer(square, {"fillOpacity": quantity("share", scale=shade, legend=None)}),
            layer({"type": "text", "color": INK, "dy": -8, "fontSize": 15}, _written("count")),
            layer({"type": "text", "color": INK, "dy": 10}, _written("percent")),
        ],
    )


def _written(field: str) -> Spec:
    return {"text": nominal(field)}


def bars_by_grade(rows: Sequence[Row], *, description: str, measures: Mapping[str, str]) -> Spec:
    """Bars beside each other for every grade.

    `rows` have `grade`, `measure`, `value` in [0, 1]; `measures` maps each to its colour.
    """
    scale = {"domain": list(measures), "range": list(measures.values())}
    colour = nominal("measure", scale=scale, legend={"orient": "top", "title": None})
    return plot(
        rows,
        description=description,
        height=300,
        mark={"type": "bar", "cornerRadiusEnd": 2, "aria": False},
        encoding={
            "x": nominal("grade", axis=_SHORT),
            "xOffset": {"field": "measure", "type": "nominal", "sort": list(measures)},
            "y": share("value", "share"),
            "color": colour,
            "tooltip": [nominal("grade"), nominal("measure"), _three_digits("value", "share")],
        },
    )


def _three_digits(field: str, title: str) -> Spec:
    return quantity(field, title, format=".3f")


def reliability_diagram(rows: Sequence[Row], *, description: str) -> Spec:
    """Accuracy over confidence; `rows` have `confidence`, `accuracy`, `count` and `bin` (text)."""
    tooltip = [
        nominal("bin", "probability"),
        _three_digits("confidence", "mean probability"),
        _three_digits("accuracy", "share that is right"),
        quantity("count", "photographs", format=",d"),
    ]
    x = share("confidence", "mean probability of the predicted grade")
    gap = {"type": "rule", "color": ACCENT, "opacity": 0.6}
    point = {"type": "circle", "color": ACCENT, "opacity": 0.9}
    return plot(
        rows,
        description=description,
        height=300,
        encoding={"x": x, "y": share("accuracy", "share that is right")},
        layer=[
            _diagonal("confidence", "accuracy"),
            layer(gap, {"y2": {"field": "confidence"}}),
            layer(point, {"size": _size(rows), "tooltip": tooltip}),
        ],
    )


def _size(rows: Sequence[Row]) -> Spec:
    scale = {"range": [30, 500], "domain": [1, max(row["count"] for row in rows)]}
    legend = {"orient": "top", "tickCount": 3, "symbolFillColor": ACCENT}
    return quantity("count", "photographs", scale=scale, legend=legend)


def _diagonal(x: str, y: str) -> Spec:
    dashed = {"type": "line", "color": MUTED, "strokeDash": [4, 4]}
    return layer(dashed, data=of([{x: 0, y: 0}, {x: 1, y: 1}]))


def roc_curve(rows: Sequence[Row], operating: Row, *, description: str) -> Spec:
    """Sensitivity over false alarms; rows have `false`, `sensitivity`, `threshold` and `place`.

    `operating`, without the last two, is ringed: where the predicted grades stand.
    """
    point: list[Any] = [
        _three_digits("sensitivity", "sensitivity"),
        _three_digits("false", "1 - specificity"),
    ]
    ring = {"type": "point", "size": 110, "strokeWidth": 2.5, "color": INK}
    line = {"type": "line", "color": ACCENT, "strokeWidth": 2.5}
    return plot(
        rows,
        description=description,
        height=300,
        encoding={
            "x": share("false", "1 - specificity"),
            "y": share("sensitivity", "sensitivity"),
        },
        layer=[
            _diagonal("false", "sensitivity"),
            layer(line, {"order": quantity("place")}),
            _nearest([*point, _three_digits("threshold", "at this and above")]),
            layer(ring, {"tooltip": point}, data=of([operating])),
        ],
    )


def _nearest(tooltip: list[Spec]) -> Spec:
    """Points that show only where they are next to the pointer."""
    select = {"type": "point", "nearest": True, "on": "pointermove", "clear": "pointerout"}
    visible = {"param": "at", "empty": False, "value": 1}
    encoding = {"opacity": {"condition": visible, "value": 0}, "tooltip": tooltip}
    point = {"type": "point", "filled": True, "size": 60, "color": ACCENT}
    return layer(point, encoding, params=[{"name": "at", "select": select}])
