"""Fixtures that open a page of ours in a real browser."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# No sandbox, as containers forbid it; nothing but our own page is opened. The rest keeps the browser from the network.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

OpenPage = Callable[[Path], Page]


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """One tab for all tests; opening one takes longer than most of them."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser.new_page()
        browser.close()


@pytest.fixture
def open_page(tab: Page) -> Iterator[OpenPage]:
    """Open a page; the browser must not complain, nor ask for anything but the page."""
    complaints: list[str] = []
    opened: set[str] = set()
    listeners: dict[str, Callable[[Any], None]] = {
        "console": lambda message: complaints.append(message.text),
        "pageerror": lambda error: complaints.append(str(error)),
        "request": lambda request: complaints.append(request.url) if request.url not in opened else None,
        "dialog": lambda dialog: complaints.append(dialog.accept() or dialog.message),
    }

    def open_path(path: Path) -> Page:
        opened.add(path.as_uri())
        tab.goto(path.as_uri())
        return tab

    for event, listener in listeners.items():
        tab.on(event, listener)
    yield open_path
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    assert complaints == []
