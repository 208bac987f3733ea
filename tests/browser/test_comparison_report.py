from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import expect

from dr.reporting.html.comparison_page import ComparisonData, Curve, Difference, comparison_page
from dr.reporting.html.tables import Score
from tests.conftest import HOSTILE

Open = Callable[..., Any]


def data(names: list[str]) -> ComparisonData:
    rows = [
        [name, f"{place}e-4", Score(0.7 + place / 100, 0.6, 0.8) if place else None]
        for place, name in enumerate(names)
    ]
    differences = [
        Difference(
            name=name,
            difference=place / 100 - 0.02,
            low=place / 100 - 0.05,
            high=place / 100 + 0.01,
            p=0.2,
            verdict=name,
            told_apart=place > 4,
        )
        for place, name in enumerate(names)
    ]
    curves = [
        Curve(
            name=name,
            epochs=[1, 2, 3],
            learning_rate=[1e-4, 5e-5, 1e-5],
            qwk=[0.1 * place, 0.2, 0.3],
            loss=[1.0, 0.9, 0.8 + place / 10],
        )
        for place, name in enumerate(names)
    ]
    return ComparisonData(
        columns=["run", "max_lr", "QWK"],
        rows=rows,
        notes=["A note."],
        differences=differences,
        curves=curves,
    )


@pytest.fixture
def html() -> str:
    return comparison_page(data([f"run_{place}" for place in range(12)]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_comparison_is_quiet_and_drawn(html: str, open_page: Open, scheme: str) -> None:
    opened = open_page(html, color_scheme=scheme)
    page = opened.page
    assert page.locator(".plot svg").count() == 4
    assert page.locator("[data-spec=difference-1] .mark-symbol path").count() == 12
    assert page.locator("[data-spec=difference-1] .mark-rule.role-mark line").count() == 13
    assert page.locator("[data-spec=curve-1] .mark-line path").count() == 12
    opened.check()


def test_the_forest_has_the_order_and_the_places_of_the_differences(
    html: str, open_page: Open
) -> None:
    page = open_page(html).page
    points = page.locator("[data-spec=difference-1] .mark-symbol path")
    boxes = [points.nth(place).bounding_box() for place in range(12)]
    assert all(one["y"] < other["y"] and one["x"] < other["x"] for one, other in pairwise(boxes))
    zero = page.locator("[data-spec=difference-1] .mark-rule.role-mark line").nth(0).bounding_box()
    assert zero["x"] == pytest.approx(boxes[2]["x"] + boxes[2]["width"] / 2, abs=2)


def test_runs_are_sorted_and_filtered(html: str, open_page: Open) -> None:
    page = open_page(html).page
    page.locator("#runs-table thead th").nth(2).get_by_role("button").click()
    names = page.locator("#runs-table tbody th").all_text_contents()
    assert names == [f"run_{place}" for place in range(11, -1, -1)]
    page.locator("#runs-table thead th").nth(0).get_by_role("button").click()
    names = page.locator("#runs-table tbody th").all_text_contents()
    assert names == [f"run_{place}" for place in range(12)]
    page.get_by_label("Filter").fill("RUN_1")
    assert page.locator("#runs-table tbody tr:visible").count() == 3


def test_runs_are_hidden_in_all_charts(html: str, open_page: Open) -> None:
    opened = open_page(html)
    opened.page.locator(".legend button").nth(3).click()
    for chart in (1, 2, 3):
        lines = opened.page.locator(f"[data-spec=curve-{chart}] .mark-line path")
        expect(lines).to_have_count(11)
    opened.check()


def test_a_narrow_comparison_does_not_scroll_sideways(html: str, open_page: Open) -> None:
    page = open_page(html, width=400).page
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 400


def test_hostile_names_do_nothing(open_page: Open) -> None:
    opened = open_page(comparison_page(data(list(HOSTILE))))
    page = opened.page
    point = page.locator("[data-spec=difference-1] .mark-symbol path").nth(0)
    point.scroll_into_view_if_needed()
    point.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert HOSTILE[0] in tooltip.text_content()
    band = page.locator("[data-spec=curve-1] .mark-rect path").nth(1)
    band.scroll_into_view_if_needed()
    band.hover(force=True)
    expect(tooltip).to_contain_text("epoch")
    assert all(name in tooltip.text_content() for name in HOSTILE[:5])
    page.locator("#runs-table thead th").nth(0).get_by_role("button").click()
    page.locator(".legend button").nth(0).click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#vg-tooltip-element :is(img, script, svg)").count() == 0
    opened.check()
