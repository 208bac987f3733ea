"""Charts with a row a name: bars, and the forest plot."""

from collections.abc import Sequence

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
)

_ROOM = {"expr": "max(90, containerSize()[0] * 0.35)"}
"""How many px of a chart its names may take."""


def bars(rows: Sequence[Row], *, description: str, title: str) -> Spec:
    """Lying bars in the order of `rows`, which have `name`, `value`, and its `text`."""
    domain = {"domain": [0, 1.4 * max(row["value"] for row in rows)], "nice": False}
    text = {"type": "text", "align": "left", "dx": 6, "color": INK}
    return plot(
        rows,
        description=description,
        height=28 * len(rows),
        encoding={
            "y": _names(),
            "x": quantity("value", scale=domain, axis=None),
            "tooltip": [nominal("name"), nominal("text", title)],
        },
        layer=[
            layer({"type": "bar", "color": ACCENT, "cornerRadiusEnd": 2}),
            layer(text, {"text": nominal("text")}),
        ],
    )


def _names() -> Spec:
    axis = {"labelLimit": _ROOM, "labelColor": INK, "ticks": False, "domain": False, "title": None}
    return nominal("name", sort=None, axis={**axis, "grid": False})


def forest(rows: Sequence[Row], *, description: str, title: str) -> Spec:
    """A point and its interval a row, around a line at 0.

    `rows` have `name`, one of each, `difference`, `low`, `high`, `p` (text) and `verdict`;
    `clear` (bool) tells which are drawn in the accent.
    """
    paint = {"condition": {"test": "datum.clear", "value": ACCENT}, "value": MUTED}
    ends = quantity("low", title, axis={"format": "+.2f", "tickCount": 7})
    point = {"type": "point", "filled": True, "size": 90, "opacity": 1}
    return plot(
        rows,
        description=description,
        height=30 * len(rows),
        encoding={"y": _names(), "tooltip": _told()},
        layer=[
            _zero(),
            layer(
                {"type": "rule", "strokeWidth": 2.5},
                {"x": ends, "x2": {"field": "high"}, "color": paint},
            ),
            layer(point, {"x": quantity("difference"), "color": paint}),
        ],
    )


def _zero() -> Spec:
    encoding = {"x": quantity("zero"), "y": None, "tooltip": None}
    return layer(
        {"type": "rule", "color": MUTED, "strokeDash": [4, 4]}, encoding, data=of([{"zero": 0}])
    )


def _told() -> list[Spec]:
    return [
        nominal("name"),
        quantity("difference", "difference", format="+.4f"),
        quantity("low", "from", format="+.4f"),
        quantity("high", "to", format="+.4f"),
        nominal("p"),
        nominal("verdict"),
    ]
