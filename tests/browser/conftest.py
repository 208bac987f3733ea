"""Pages in headless Chromium, with everything they say and ask for written down."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


PATIENCE_MS = 120_000
"""How long a page is waited for: a busy machine is slow, a broken page is not drawn at all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


def find_chromium() -> str:
    given = os.environ.get("CHROMIUM")
    found = shutil.which(given) if given else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        what = f"CHROMIUM={given} is no program" if given else f"none of {', '.join(NAMES)} in PATH"
        pytest.fail(
            f"these tests need Chromium: {what}; install it (Debian: apt-get install chromium), or "
            "give its path, CHROMIUM=/path/to/chromium make test-browser",
            pytrace=False,
        )
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    path = find_chromium()
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=list(FLAGS), timeout=PATIENCE_MS
        )
        yield chromium
        chromium.close()


@dataclass
class Opened:
    """A page (Playwright's), and all that it said, asked for and was answered so far."""

    page: Any
    url: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    def check(self) -> None:
        """It complained of nothing, and asked for nothing but itself."""
        assert self.said == []
        assert set(self.asked) == {self.url}

    def colour(self, selector: str, name: str = "color") -> tuple[float, float, float]:
        """A computed colour of an element, RGB from 0 to 255."""
        script = (
            "([selector, name]) => { const c = document.createElement('canvas').getContext('2d');"
            "c.fillStyle = getComputedStyle(document.querySelector(selector))[name];"
            "c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; }"
        )
        red, green, blue, _ = self.page.evaluate(script, [selector, name])
        return red, green, blue


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """`open_page(html, color_scheme="dark", width=1280)`: the page, drawn, opened from disk."""
    contexts = []

    def open_(html: str, *, width: int = 1280, **given: Any) -> Opened:
        path = tmp_path / f"page-{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, **given)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        opened = Opened(context.new_page(), path.as_uri())
        context.on("request", lambda request: opened.asked.append(request.url))
        context.on("response", lambda response: opened.answered.append(response.url))
        opened.page.on("console", lambda message: opened.said.append(message.text))
        opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.page.on("dialog", lambda dialog: opened.said.append(f"dialog: {dialog.message}"))
        opened.page.goto(opened.url)
        opened.page.locator(":root[data-ready]").wait_for(state="attached")
        return opened

    yield open_
    for context in contexts:
        context.close()
