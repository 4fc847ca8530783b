"""A real browser for the status page: one for the whole session, a fresh window for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.window import Window, open_browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
REQUIRED = os.environ.get("COMFYGATE_BROWSER") == "required"


@pytest.fixture(scope="session")
def programs() -> tuple[str, str]:
    """Paths of the browser and of its driver; nothing is ever downloaded."""
    if CHROMIUM and CHROMEDRIVER:
        return CHROMIUM, CHROMEDRIVER
    reason = "no chromium and chromedriver here: the status page is not looked at (Debian: chromium, chromium-driver)"
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser(programs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    """A browser whose reader prefers British English."""
    with open_browser(*programs, tmp_path_factory.mktemp("browser"), languages="en-GB,en") as driver:
        yield Window(driver)


@pytest.fixture
def window(browser: Window) -> Iterator[Window]:
    """An empty window, 1280 pixels wide, in daylight; closed afterwards."""
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.forget_logs()
    browser.look(1280)
    try:
        yield browser
    finally:
        browser.driver.close()
        browser.driver.switch_to.window(first)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures go: $COMFYGATE_SCREENSHOTS, or build/screenshots."""
    folder = Path(os.environ.get("COMFYGATE_SCREENSHOTS") or Path(__file__).parents[2] / "build" / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
