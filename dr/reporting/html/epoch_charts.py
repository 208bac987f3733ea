"""Lines over epochs."""

from collections.abc import Sequence

from dr.reporting.html.charts import MUTED, Row, Series, Spec, layer, nominal, of, plot, quantity

MEAN = "mean"
"""The key of the series that is drawn wide."""
HEIGHT = 240
Columns = dict[str, tuple[tuple[str, str | None], str]]
"""Fields of a tooltip -> key and part of a line, and its label."""


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
    axis = {"format": axis_form or form, "tickCount": 5}
    values = quantity("value", y, scale={"zero": zero}, axis=axis)
    return plot(
        rows,
        description=description,
        height=HEIGHT,
        params=[{"name": "hidden", "value": []}],
        usermeta={"labels": {field: label for field, (_, label) in columns.items()}},
        encoding={"x": _epochs(rows), "y": values},
        layer=[_lines(series, rows), *_rings(series, kept), _hover(rows, columns, form)],
    )


def _epochs(rows: Sequence[Row]) -> Spec:
    axis = {"format": "d", "tickMinStep": 1, "grid": False}
    return quantity("epoch", "epoch", scale={"domain": _domain(rows), "nice": False}, axis=axis)


def _domain(rows: Sequence[Row]) -> list[float]:
    first, last = (limit(row["epoch"] for row in rows) for limit in (min, max))
    return [first, last] if first < last else [first - 0.5, first + 0.5]


def _colour(series: Sequence[Series]) -> Spec:
    scale = {"domain": [one.key for one in series], "range": [one.paint for one in series]}
    return nominal("series", legend=None, scale=scale)


def _shown() -> list[Spec]:
    return [{"filter": "indexof(hidden, datum.series) < 0"}]


def _lines(series: Sequence[Series], rows: Sequence[Row]) -> Spec:
    keys = [one.key for one in series if one.dashed]
    dashed = f"datum.part === 'training' || indexof({keys}, datum.series) >= 0"
    wide = {"test": f"datum.series === '{MEAN}'", "value": 3}
    encoding = {
        "color": _colour(series),
        "detail": nominal("part"),
        "strokeWidth": {"condition": wide, "value": 1.6},
        "strokeDash": {"condition": {"test": dashed, "value": [5, 4]}, "value": [1, 0]},
    }
    single = len({row["epoch"] for row in rows}) <= 1
    return layer({"type": "line", "point": single}, encoding, transform=_shown())


def _rings(series: Sequence[Series], kept: Sequence[Row]) -> list[Spec]:
    if not kept:
        return []
    ring = {"type": "point", "size": 70, "strokeWidth": 2, "filled": False}
    return [layer(ring, {"color": _colour(series)}, data=of(kept), transform=_shown())]


def _hover(rows: Sequence[Row], columns: Columns, form: str) -> Spec:
    """A band an epoch that shows under the pointer, with a tooltip of all values there."""
    visible = {"param": "at", "empty": False, "value": 0.15}
    select = {"type": "point", "on": "pointerover", "clear": "pointerout"}
    encoding = {
        "x": quantity("from"),
        "x2": {"field": "to"},
        "y": {"value": 0},
        "y2": {"value": HEIGHT},
        "opacity": {"condition": visible, "value": 0},
        "tooltip": [nominal("epoch"), *map(nominal, columns)],
    }
    params = [{"name": "at", "select": select}]
    mark = {"type": "rect", "color": MUTED}
    return layer(mark, encoding, data=of(_bands(rows, columns, form)), params=params)


def _bands(rows: Sequence[Row], columns: Columns, form: str) -> list[Row]:
    """A row an epoch: where its band reaches, and the values of all lines as text."""
    low, high = _domain(rows)
    found = {(row["epoch"], row["series"], row.get("part")): row["value"] for row in rows}
    return [
        {"epoch": epoch, "from": max(low, epoch - 0.5), "to": min(high, epoch + 0.5)}
        | {field: _spelled(found.get((epoch, *key)), form) for field, (key, _) in columns.items()}
        for epoch in sorted({row["epoch"] for row in rows})
    ]


def _columns(rows: Sequence[Row], series: Sequence[Series]) -> Columns:
    parts = sorted({(row["series"], row.get("part")) for row in rows}, key=str)
    keys = [(one, part) for one in series for key, part in parts if key == one.key]
    return {
        f"c{place}": ((one.key, part), f"{one.label}, {part}" if part else one.label)
        for place, (one, part) in enumerate(keys)
    }


def _spelled(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
