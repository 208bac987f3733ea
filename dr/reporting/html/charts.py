"""Charts as Vega-Lite specifications.

Colours are CSS variables of the page, so that a chart follows its theme and prints light. Names
from data appear as values only, never as names of fields or in expressions; where a tooltip needs
one beside a value, `usermeta.labels` has it by the field's name, and the page puts it in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dr.reporting.html.tables import Table

Spec = dict[str, Any]
Row = dict[str, Any]
Columns = dict[str, tuple[tuple[str, str | None], str]]
"""Fields of a tooltip -> key and part of a line, and its label."""

COLOURS = 10
"""How many series have a colour of their own."""
MEAN = "mean"
HEIGHT = 240
_SHORT = {"labelExpr": "split(datum.label, ' ')[0]"}
"""Of a grade's name the number, where names side by side need more room than there is."""
_TOP = {"orient": "top"}
_INK, _MUTED, _ACCENT = "var(--ink)", "var(--muted)", "var(--accent)"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A specification with its title, what it shows in a sentence, and its numbers as a table.

    `series` tells that the page's legend shows and hides its lines, `wide` that it takes a row.
    """

    title: str
    caption: str
    spec: Spec
    table: Table | None = None
    series: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Series:
    """A line: `key` tells it in a chart, `label` to people; `colour` is a place in the palette."""

    key: str
    label: str
    colour: int | None

    @property
    def dashed(self) -> bool:
        """Whether its colour is used a second time."""
        return self.colour is not None and self.colour >= COLOURS

    @property
    def paint(self) -> str:
        """Its colour as CSS; the mean has that of the text."""
        return _INK if self.colour is None else f"var(--s{self.colour % COLOURS})"


def config() -> Spec:
    """What all charts share: type and colours."""
    text = {"labelColor": _MUTED, "titleColor": _MUTED, "labelFontSize": 12, "titleFontSize": 12}
    lines = {"gridColor": "var(--line)", "domainColor": "var(--edge)", "tickColor": "var(--edge)"}
    return {
        "background": None,
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, **lines, "titleFontWeight": "normal", "titlePadding": 8},
        "axisX": {"labelFlush": False},
        "legend": {**text, "titleFontWeight": "normal"},
        "text": {"fontSize": 12},
        "aria": True,
    }


def lines_by_epoch(
    rows: Sequence[Row],
    series: Sequence[Series],
    *,
    description: str,
    y: str,
    form: str,
    kept: Sequence[Row] = (),
    axis_form: str | None = None,
    zero: bool = False,
) -> Spec:
    """A line a series over epochs.

    `rows` have `epoch`, `series` (a key), `value`, and `part`: a training's is dashed. `kept`
    rows get a ring; `zero` has the axis begin there. Hovering shows all series at an epoch.
    """
    columns = _columns(rows, series)
    first, last = (limit(row["epoch"] for row in rows) for limit in (min, max))
    x = {
        "field": "epoch",
        "type": "quantitative",
        "title": "epoch",
        "scale": {"domain": _domain(first, last), "nice": False},
        "axis": {"format": "d", "tickMinStep": 1, "grid": False},
    }
    vertical = {
        "field": "value",
        "type": "quantitative",
        "title": y,
        "scale": {"zero": zero},
        "axis": {"format": axis_form or form, "tickCount": 5},
    }
    shown = {"filter": "indexof(hidden, datum.series) < 0"}
    return {
        "description": description,
        "width": "container",
        "height": HEIGHT,
        "params": [{"name": "hidden", "value": []}],
        "usermeta": {"labels": {field: label for field, (_, label) in columns.items()}},
        "data": {"values": list(rows)},
        "encoding": {"x": x, "y": vertical},
        "layer": [
            {"transform": [shown], **_lines(series, rows)},
            *([{"data": {"values": kept}, "transform": [shown], **_rings(series)}] if kept else []),
            _hover(rows, columns, form),
        ],
    }


def _colour(series: Sequence[Series]) -> Spec:
    return {
        "field": "series",
        "type": "nominal",
        "legend": None,
        "scale": {
            "domain": [one.key for one in series],
            "range": [one.paint for one in series],
        },
    }


def _lines(series: Sequence[Series], rows: Sequence[Row]) -> Spec:
    wide = {"test": f"datum.series === '{MEAN}'", "value": 3}
    dashes = [one.key for one in series if one.dashed]
    dashed = {
        "test": f"datum.part === 'training' || indexof({dashes}, datum.series) >= 0",
        "value": [5, 4],
    }
    few = len({row["epoch"] for row in rows}) <= 1
    return {
        "mark": {"type": "line", "aria": False, "point": few, "strokeCap": "round"},
        "encoding": {
            "color": _colour(series),
            "detail": {"field": "part", "type": "nominal"},
            "strokeWidth": {"condition": wide, "value": 1.6},
            "strokeDash": {"condition": dashed, "value": [1, 0]},
        },
    }


def _rings(series: Sequence[Series]) -> Spec:
    return {
        "mark": {"type": "point", "aria": False, "size": 70, "strokeWidth": 2, "filled": False},
        "encoding": {"color": _colour(series)},
    }


def _domain(first: int, last: int) -> list[float]:
    return [first, last] if first < last else [first - 0.5, first + 0.5]


def _hover(rows: Sequence[Row], columns: Columns, form: str) -> Spec:
    """A band an epoch that shows under the pointer, with a tooltip of all values there."""
    epochs = sorted({row["epoch"] for row in rows})
    low, high = _domain(epochs[0], epochs[-1])
    found = {(row["epoch"], row["series"], row.get("part")): row["value"] for row in rows}
    values = [
        {"epoch": epoch, "from": max(low, epoch - 0.5), "to": min(high, epoch + 0.5)}
        | {field: _spelled(found.get((epoch, *key)), form) for field, (key, _) in columns.items()}
        for epoch in epochs
    ]
    visible = {"param": "at", "empty": False, "value": 0.15}
    select = {"type": "point", "on": "pointerover", "clear": "pointerout"}
    return {
        "data": {"values": values},
        "params": [{"name": "at", "select": select}],
        "mark": {"type": "rect", "aria": False, "color": _MUTED},
        "encoding": {
            "x": {"field": "from", "type": "quantitative"},
            "x2": {"field": "to"},
            "y": {"value": 0},
            "y2": {"value": HEIGHT},
            "opacity": {"condition": visible, "value": 0},
            "tooltip": [_nominal("epoch"), *map(_nominal, columns)],
        },
    }


def _columns(rows: Sequence[Row], series: Sequence[Series]) -> Columns:
    parts = sorted({(row["series"], row.get("part")) for row in rows}, key=str)
    keys = [(one, part) for one in series for key, part in parts if key == one.key]
    return {
        f"c{place}": ((one.key, part), f"{one.label}, {part}" if part else one.label)
        for place, (one, part) in enumerate(keys)
    }


def _spelled(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def confusion(rows: Sequence[Row], *, description: str, grades: Sequence[str]) -> Spec:
    """A square a pair of grades, shaded by its share of the row.

    `rows` have `label`, `grade` (each one of `grades`), `count`, `share` in [0, 1] and `percent`,
    the share as text.
    """
    axis: Spec = {"labelAngle": 0, "ticks": False, "domain": False, "labelLimit": 110}
    return {
        "description": description,
        "width": "container",
        "height": 360,
        "data": {"values": list(rows)},
        "encoding": {
            "x": _grade_axis(
                "grade", "predicted grade", grades, {**axis, **_SHORT, "orient": "top"}
            ),
            "y": _grade_axis("label", "label", grades, axis),
            "tooltip": [
                _nominal("label"),
                _nominal("grade", "predicted grade"),
                _nominal("count", "photographs"),
                _nominal("percent", "of this label"),
            ],
        },
        "layer": [
            {
                "mark": {"type": "rect", "color": "var(--heat)", "stroke": "var(--paper)"},
                "encoding": {"fillOpacity": _share_opacity()},
            },
            _text("count", -8, 15),
            _text("percent", 10, 12),
        ],
    }


def _grade_axis(field: str, title: str, grades: Sequence[str], axis: Spec) -> Spec:
    return {"field": field, "type": "nominal", "title": title, "sort": list(grades), "axis": axis}


def _share_opacity() -> Spec:
    return {
        "field": "share",
        "type": "quantitative",
        "scale": {"domain": [0, 1], "range": [0.04, 1]},
        "legend": None,
    }


def _text(field: str, shift: int, size: int) -> Spec:
    return {
        "mark": {"type": "text", "aria": False, "dy": shift, "fontSize": size, "color": _INK},
        "encoding": {"text": _nominal(field)},
    }


def _nominal(field: str, title: str | None = None) -> Spec:
    return {"field": field, "type": "nominal", "title": title or field}


def _number(field: str, title: str, form: str) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, "format": form}


def bars_by_grade(rows: Sequence[Row], *, description: str, measures: Mapping[str, str]) -> Spec:
    """Bars beside each other for every grade.

    `rows` have `grade`, `measure`, `value` in [0, 1]; `measures` maps each to its colour.
    """
    scale = {"domain": list(measures), "range": list(measures.values())}
    return {
        "description": description,
        "width": "container",
        "height": 300,
        "data": {"values": list(rows)},
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "encoding": {
            "x": {**_nominal("grade"), "axis": {"labelAngle": 0, **_SHORT}},
            "xOffset": {"field": "measure", "type": "nominal", "sort": list(measures)},
            "y": _unit("value", "share"),
            "color": {
                **_nominal("measure"),
                "title": None,
                "scale": scale,
                "legend": {"orient": "top"},
            },
            "tooltip": [_nominal("grade"), _nominal("measure"), _number("value", "share", ".3f")],
        },
    }


def _unit(field: str, title: str) -> Spec:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"domain": [0, 1]},
        "axis": {"format": ".1f", "tickCount": 5},
    }


def reliability_diagram(rows: Sequence[Row], *, description: str) -> Spec:
    """Accuracy over confidence; `rows` have `confidence`, `accuracy`, `count` and `bin` (text)."""
    x, y = (
        _unit("confidence", "mean probability of the predicted grade"),
        _unit("accuracy", "share that is right"),
    )
    size = {
        "field": "count",
        "type": "quantitative",
        "title": "photographs",
        "scale": {"range": [30, 500], "domain": [1, max(row["count"] for row in rows)]},
        "legend": {"orient": "top", "tickCount": 3, "symbolFillColor": _ACCENT},
    }
    tooltip = [
        _nominal("bin", "probability"),
        _number("confidence", "mean probability", ".3f"),
        _number("accuracy", "share that is right", ".3f"),
        _number("count", "photographs", ",d"),
    ]
    return {
        "description": description,
        "width": "container",
        "height": 300,
        "data": {"values": list(rows)},
        "encoding": {"x": x, "y": y},
        "layer": [
            _diagonal("confidence", "accuracy"),
            {
                "mark": {"type": "rule", "aria": False, "color": _ACCENT, "opacity": 0.6},
                "encoding": {"y2": {"field": "confidence"}},
            },
            {
                "mark": {"type": "circle", "color": _ACCENT, "opacity": 0.9},
                "encoding": {"size": size, "tooltip": tooltip},
            },
        ],
    }


def _diagonal(x: str, y: str) -> Spec:
    return {
        "data": {"values": [{x: 0, y: 0}, {x: 1, y: 1}]},
        "mark": {"type": "line", "aria": False, "color": _MUTED, "strokeDash": [4, 4]},
    }


def roc_curve(rows: Sequence[Row], operating: Row | None, *, description: str) -> Spec:
    """Sensitivity over false alarms; rows have `false`, `sensitivity`, `threshold` and `place`.

    `operating` (of the same form) is ringed: where the predicted grades stand.
    """
    tooltip = [
        _number("sensitivity", "sensitivity", ".3f"),
        _number("false", "1 - specificity", ".3f"),
        _number("threshold", "at this and above", ".3f"),
    ]
    return {
        "description": description,
        "width": "container",
        "height": 300,
        "data": {"values": list(rows)},
        "encoding": {
            "x": _unit("false", "1 - specificity"),
            "y": _unit("sensitivity", "sensitivity"),
        },
        "layer": [
            _diagonal("false", "sensitivity"),
            {
                "mark": {"type": "line", "aria": False, "color": _ACCENT, "strokeWidth": 2.5},
                "encoding": {"order": {"field": "place", "type": "quantitative"}},
            },
            _nearest(tooltip),
            {
                "data": {"values": [] if operating is None else [operating]},
                "mark": {"type": "point", "size": 110, "strokeWidth": 2.5, "color": _INK},
                "encoding": {"tooltip": tooltip[:-1]},
            },
        ],
    }


def _nearest(tooltip: list[Spec]) -> Spec:
    """Points that show only where they are next to the pointer."""
    select = {"type": "point", "nearest": True, "on": "pointermove", "clear": "pointerout"}
    visible = {"param": "at", "empty": False, "value": 1}
    return {
        "params": [{"name": "at", "select": select}],
        "mark": {"type": "point", "aria": False, "filled": True, "size": 60, "color": _ACCENT},
        "encoding": {"opacity": {"condition": visible, "value": 0}, "tooltip": tooltip},
    }


def bars(rows: Sequence[Row], *, description: str, title: str) -> Spec:
    """Lying bars in the order of `rows`, which have `name`, `value`, and its `text`."""
    return {
        "description": description,
        "width": "container",
        "height": 28 * len(rows),
        "data": {"values": list(rows)},
        "encoding": {
            "y": {**_nominal("name"), "title": None, "sort": None, "axis": _names()},
            "x": {
                "field": "value",
                "type": "quantitative",
                "scale": {"domain": [0, 1.4 * max(row["value"] for row in rows)], "nice": False},
                "axis": None,
            },
            "tooltip": [_nominal("name"), _nominal("text", title)],
        },
        "layer": [
            {"mark": {"type": "bar", "color": _ACCENT, "cornerRadiusEnd": 2}},
            {
                "mark": {"type": "text", "aria": False, "align": "left", "dx": 6, "color": _INK},
                "encoding": {"text": _nominal("text")},
            },
        ],
    }


def _names(limit: int = 280) -> Spec:
    return {"labelLimit": limit, "labelColor": _INK, "ticks": False, "domain": False, "grid": False}


def forest(rows: Sequence[Row], *, description: str, title: str) -> Spec:
    """A point and its interval a row, around a line at 0.

    `rows` have `name`, one of each, `difference`, `low`, `high`, `p` (text) and `verdict`;
    `clear` (bool) tells which are drawn in the accent.
    """
    paint = {"condition": {"test": "datum.clear", "value": _ACCENT}, "value": _MUTED}
    tooltip = [
        _nominal("name"),
        _number("difference", "difference", "+.4f"),
        _number("low", "from", "+.4f"),
        _number("high", "to", "+.4f"),
        _nominal("p"),
        _nominal("verdict"),
    ]
    return {
        "description": description,
        "width": "container",
        "height": 30 * len(rows),
        "data": {"values": list(rows)},
        "encoding": {
            "y": {
                **_nominal("name"),
                "title": None,
                "sort": None,
                "axis": _names(),
            },
            "tooltip": tooltip,
        },
        "layer": [
            {
                "data": {"values": [{"zero": 0}]},
                "mark": {"type": "rule", "aria": False, "color": _MUTED, "strokeDash": [4, 4]},
                "encoding": {
                    "x": {"field": "zero", "type": "quantitative"},
                    "y": None,
                    "tooltip": None,
                },
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2.5, "aria": False},
                "encoding": {
                    "x": {
                        "field": "low",
                        "type": "quantitative",
                        "title": title,
                        "axis": {"format": "+.2f", "tickCount": 7},
                    },
                    "x2": {"field": "high"},
                    "color": paint,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                "encoding": {"x": {"field": "difference", "type": "quantitative"}, "color": paint},
            },
        ],
    }
