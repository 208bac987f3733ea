"""What all charts of a page are made of: Vega-Lite specifications, as plain values.

Colours are CSS variables of the page, so that a chart follows its theme and prints light. Names
from data appear as values only, never as names of fields or in expressions; where a tooltip needs
one beside a value, `usermeta.labels` has it by the field's name, and the page puts it in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dr.reporting.html.tables import Table

Spec = dict[str, Any]
Row = dict[str, Any]

COLOURS = 10
"""How many series have a colour of their own."""
INK, MUTED, ACCENT = "var(--ink)", "var(--muted)", "var(--accent)"


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
        return INK if self.colour is None else f"var(--s{self.colour % COLOURS})"


def config() -> Spec:
    """What all charts share: type and colours."""
    text = {"labelColor": MUTED, "titleColor": MUTED, "labelFontSize": 12, "titleFontSize": 12}
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


def plot(rows: Sequence[Row], *, description: str, height: int, **parts: Any) -> Spec:
    """A chart as wide as its place and `height` px high; `parts` are its marks and encodings."""
    size = {"width": "container", "height": height}
    return {"description": description, **size, "data": {"values": list(rows)}, **parts}


def layer(mark: Spec, encoding: Spec | None = None, **parts: Any) -> Spec:
    """A layer of a chart, which screen readers pass over: the chart's table has its numbers."""
    return {"mark": {"aria": False, **mark}, "encoding": encoding or {}, **parts}


def of(rows: Sequence[Row]) -> Spec:
    """The data of a layer that has its own."""
    return {"values": list(rows)}


def nominal(field: str, title: str | None = None, **more: Any) -> Spec:
    """A channel of names."""
    return {"field": field, "type": "nominal", "title": title or field, **more}


def quantity(field: str, title: str | None = None, **more: Any) -> Spec:
    """A channel of numbers; without a title it leaves the axis the one of other layers."""
    named = {} if title is None else {"title": title}
    return {"field": field, "type": "quantitative", **named, **more}


def share(field: str, title: str) -> Spec:
    """A channel of numbers in [0, 1]."""
    axis = {"format": ".1f", "tickCount": 5}
    return quantity(field, title, scale={"domain": [0, 1]}, axis=axis)
