import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from dr.reporting.html.gallery import Pictures, worst_mistakes
from dr.reporting.html.run_files import read_run_files
from dr.reporting.html.run_page import run_page
from tests.conftest import HOSTILE

Open = Callable[..., Any]
LIMIT = 1_500_000


def page_of(run: Path) -> str:
    files = read_run_files(run)
    assert files.predictions is not None
    mistakes = worst_mistakes(files.predictions, 12)
    gray = np.full((64, 64, 3), 128, np.uint8)
    pictures = {mistake.name: Pictures(gray, gray) for mistake in mistakes}
    return run_page(files, mistakes=mistakes, pictures=pictures, intervals={"qwk": (0.1, 0.9)})


@pytest.fixture
def html(finished_run: Path, tmp_path: Path) -> str:
    """The page of a run with mistakes: every fifth label is changed."""
    run = tmp_path / finished_run.name
    shutil.copytree(finished_run, run)
    for path in run.glob("fold-*/predictions.csv"):
        with path.open(newline="") as file:
            head, *rows = csv.reader(file)
        changed = [
            [*row[:3], str(4 - int(row[3]) if place % 5 == 0 else row[3]), *row[4:]]
            for place, row in enumerate(rows)
        ]
        path.write_text("\n".join(",".join(row) for row in [head, *changed]) + "\n")
    return page_of(run)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_quiet_and_asks_for_nothing(html: str, open_page: Open, scheme: str) -> None:
    opened = open_page(html, color_scheme=scheme)
    opened.page.mouse.wheel(0, 4000)
    opened.page.wait_for_timeout(200)
    opened.check()


def test_a_page_is_of_bounded_size(html: str) -> None:
    assert len(html.encode()) < LIMIT


def test_every_chart_is_drawn_as_svg(html: str, open_page: Open) -> None:
    page = open_page(html).page
    plots = page.locator(".plot")
    assert plots.count() == page.locator(".plot svg").count() == 11
    said = page.locator(".plot[aria-roledescription=visualization]").all()
    assert len(said) == 11 and all(svg.get_attribute("aria-label") for svg in said)
    loss = page.locator(".plot").nth(0)
    assert loss.locator(".mark-line path").count() == 2 * 4
    assert loss.locator(".mark-symbol path").count() == 3
    confusion = page.locator("#grades .plot").nth(0)
    assert confusion.locator(".mark-rect path").count() == 25
    shown = [text for text in confusion.locator(".mark-text text").all_text_contents() if text]
    assert sum(int(text) for text in shown if text.isdecimal()) >= 60
    for place in range(11):
        box = plots.nth(place).locator("svg").bounding_box()
        assert box["width"] > 300 and box["height"] > 80


def test_lines_stand_where_the_history_says(html: str, finished_run: Path, open_page: Open) -> None:
    page = open_page(html).page
    path = page.locator("[data-spec=curve-2] .mark-line path").nth(0).get_attribute("d")
    heights = [float(y) for _, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]
    with (finished_run / "fold-0" / "history.csv").open() as file:
        scores = [float(row["qwk"]) for row in csv.DictReader(file)]
    assert len(heights) == len(scores) == 3
    assert np.corrcoef(heights, scores)[0, 1] == pytest.approx(-1, abs=1e-3)


def order_of(page: Any, table: str, column: int) -> list[str]:
    found: list[str] = page.locator(f"{table} tbody tr > :nth-child({column})").all_text_contents()
    return found


def test_a_click_sorts_and_another_turns_round(html: str, open_page: Open) -> None:
    page = open_page(html).page
    header = page.locator("#score-table thead th").nth(1)
    assert header.get_attribute("aria-sort") is None
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    falling = [float(text[:6]) for text in order_of(page, "#score-table", 2)]
    assert falling == sorted(falling, reverse=True)
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    rising = [float(text[:6]) for text in order_of(page, "#score-table", 2)]
    assert rising == sorted(rising)
    other = page.locator("#score-table thead th").nth(2)
    other.get_by_role("button").click()
    assert header.get_attribute("aria-sort") is None
    assert other.get_attribute("aria-sort") == "descending"
    assert page.locator("#score-table .strong th").text_content() == "pooled, out of fold"


def test_the_keyboard_sorts_and_what_is_missing_stays_last(html: str, open_page: Open) -> None:
    page = open_page(html).page
    kept = page.locator("#score-table thead th").nth(8).get_by_role("button")
    for _ in range(2):
        kept.focus()
        page.keyboard.press("Enter")
        assert order_of(page, "#score-table", 9)[-2:] == ["–", "–"]
    name = page.locator("#score-table thead th").nth(0).get_by_role("button")
    name.focus()
    page.keyboard.press("Space")
    assert page.locator("#score-table thead th").nth(0).get_attribute("aria-sort") == "ascending"
    names = order_of(page, "#score-table", 1)
    assert names == sorted(names)


def lightness(opened: Any) -> float:
    return sum(opened.colour("body", "backgroundColor")) / 3


def test_the_theme_follows_the_system(html: str, open_page: Open) -> None:
    opened = open_page(html, color_scheme="light")
    button = opened.page.locator("#theme")
    assert lightness(opened) > 200 and button.get_attribute("aria-pressed") == "false"
    line = opened.colour(".mark-line path", "stroke")
    opened.page.emulate_media(color_scheme="dark")
    assert lightness(opened) < 60 and button.get_attribute("aria-pressed") == "true"
    assert opened.colour(".mark-line path", "stroke") != line
    opened.check()


def test_the_toggle_chooses_a_theme_and_a_reload_keeps_it(html: str, open_page: Open) -> None:
    opened = open_page(html, color_scheme="light")
    button = opened.page.locator("#theme")
    button.focus()
    opened.page.keyboard.press("Enter")
    assert lightness(opened) < 60 and button.get_attribute("aria-pressed") == "true"
    opened.page.reload()
    assert lightness(opened) < 60
    opened.page.locator("#theme").click()
    assert lightness(opened) > 200
    opened.page.emulate_media(color_scheme="dark")
    assert lightness(opened) < 60


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG 2's contrast ratio of two colours."""

    def luminance(colour: tuple[float, ...]) -> float:
        parts = np.array(colour) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out(html: str, open_page: Open, scheme: str) -> None:
    opened = open_page(html, color_scheme=scheme)
    paper = opened.colour("body", "backgroundColor")
    card = opened.colour(".tiles div", "backgroundColor")
    for selector in ("body", ".lead", ".note", "summary", ".bar a", ".chart figcaption p"):
        assert contrast(opened.colour(selector), paper) >= 4.5, selector
    assert contrast(opened.colour(".tiles dt"), card) >= 4.5
    badge = opened.colour(".badge"), opened.colour(".badge", "backgroundColor")
    assert contrast(*badge) >= 4.5
    for place in range(10):
        opened.page.evaluate(f"document.body.style.outlineColor = 'var(--s{place})'")
        assert contrast(opened.colour("body", "outlineColor"), paper) >= 3, place
    ink = opened.colour("body")
    opened.page.evaluate("document.body.style.outlineColor = 'var(--heat)'")
    assert contrast(opened.colour("body", "outlineColor"), ink) >= 4.5


def test_hovering_a_chart_tells_its_values(html: str, finished_run: Path, open_page: Open) -> None:
    page = open_page(html).page
    plot = page.locator("[data-spec=curve-2] .mark-rect path").nth(1)
    plot.scroll_into_view_if_needed()
    plot.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    rows = [text.split() for text in tooltip.locator("tr").all_text_contents()]
    with (finished_run / "fold-0" / "history.csv").open() as file:
        second = list(csv.DictReader(file))[1]
    said = " ".join(tooltip.locator("td").all_text_contents())
    assert said.startswith(f"epoch 2 fold 0 {float(second['qwk']):.4f} fold 1"), rows


def test_the_legend_hides_lines_by_keyboard(html: str, open_page: Open) -> None:
    opened = open_page(html)
    page = opened.page
    lines = page.locator("[data-spec=curve-2] .mark-line path")
    assert lines.count() == 4
    button = page.locator(".legend button").nth(1)
    button.focus()
    page.keyboard.press("Space")
    expect(lines).to_have_count(3)
    assert button.get_attribute("aria-pressed") == "false"
    expect(page.locator("[data-spec=curve-3] .mark-line path")).to_have_count(3)
    page.keyboard.press("Space")
    expect(lines).to_have_count(4)
    opened.check()


def test_the_config_can_be_filtered(html: str, open_page: Open) -> None:
    page = open_page(html).page
    page.get_by_label("Filter").fill("schedule max")
    shown = page.locator("#config-table tbody tr:visible")
    assert shown.count() == 1
    assert shown.nth(0).text_content().split() == ["schedule.max_lr", "0.01"]


def test_the_first_stop_of_the_keyboard_skips_to_the_content(html: str, open_page: Open) -> None:
    page = open_page(html).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert page.evaluate("document.activeElement.hash") == "#scores" and width == "3px"


def test_pictures_are_shown_beside_what_is_known_of_them(html: str, open_page: Open) -> None:
    page = open_page(html).page
    assert page.locator(".gallery li").count() == 12
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth === 64)")
    text = page.locator(".gallery figcaption").nth(0).text_content()
    assert re.search(r"\d+_(left|right)\s*fold \d\s*label \d, score \d\.\d\d, graded \d", text)


@pytest.mark.parametrize("width", [320, 400])
def test_a_narrow_page_does_not_scroll_sideways(html: str, open_page: Open, width: int) -> None:
    page = open_page(html, width=width).page
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    boxes = [plot.bounding_box() for plot in page.locator(".plot svg").all()]
    assert max(box["x"] + box["width"] for box in boxes) <= width


def test_print_is_light_whole_and_without_controls(html: str, open_page: Open) -> None:
    opened = open_page(html, color_scheme="dark", width=700)
    page = opened.page
    page.emulate_media(media="print", color_scheme="dark")
    assert lightness(opened) > 250
    assert not page.locator("#theme").is_visible()
    assert not page.locator(".bar").is_visible()
    assert page.locator(".plot svg").nth(0).is_visible()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 700
    pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    assert 3 <= pages <= 12
    opened.check()


def test_hostile_names_do_nothing(hostile_run: Path, open_page: Open) -> None:
    opened = open_page(page_of(hostile_run))
    page = opened.page
    assert page.evaluate("window.hacked") is None
    bars = page.locator("[data-spec=time-1] .mark-rect path")
    assert bars.count() == 2
    bars.nth(0).scroll_into_view_if_needed()
    bars.nth(0).hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert HOSTILE[0] in tooltip.text_content()
    assert page.locator("#vg-tooltip-element script, #vg-tooltip-element img").count() == 0
    page.locator("#config-table thead button").nth(1).click()
    assert page.locator("h1").text_content() == hostile_run.name
    assert page.evaluate("window.hacked") is None
    opened.check()


def test_a_script_that_slips_in_is_stopped_by_the_policy(html: str, open_page: Open) -> None:
    """A second wall: should a name ever get through, the browser would not run or fetch it."""
    slipped = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
    slipped += "<img src=https://example.org/x.png>"
    opened = open_page(html.replace("<main", f"{slipped}<main"))
    opened.page.wait_for_timeout(200)
    assert opened.page.evaluate("window.hacked") is None
    assert set(opened.answered) == {opened.url}
    assert len(opened.said) >= 3 and all("Content Security Policy" in text for text in opened.said)


def test_an_unfinished_run_says_so_first(
    finished_run: Path, tmp_path: Path, open_page: Open
) -> None:
    run = tmp_path / "unfinished"
    shutil.copytree(finished_run, run)
    result = json.loads((run / "result.json").read_text())
    del result["folds"]["2"]
    (run / "result.json").write_text(json.dumps(result | {"complete": False}))
    opened = open_page(page_of(run))
    notice = opened.page.locator(".notice.warn").nth(0)
    assert "This run is unfinished." in notice.text_content()
    assert notice.bounding_box()["y"] < 400
    opened.check()
