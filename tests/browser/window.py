"""A browser's window, as the tests of the status page use it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
from attrs import frozen
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.gateway import eventually

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
    "--force-color-profile=srgb",
)


@contextmanager
def open_browser(chromium: str, chromedriver: str, profile: Path, *, languages: str) -> Iterator[Chrome]:
    """Run a browser.

    :param profile: an empty folder.
    :param languages: what the reader prefers, as in Accept-Language.
    """
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": languages})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(executable_path=chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


@frozen
class Window:
    """What a reader sees and does."""

    driver: Chrome

    def look(self, width: int, *, height: int = 800, dark: bool = False, still: bool = False, scale: float = 1) -> None:
        """Set the size (CSS pixels), the colour scheme and the wish for less motion."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wishes = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wishes})

    def open(self, address: str) -> None:
        """Go there."""
        self.driver.get(address)

    def run(self, script: str, *arguments: Any) -> Any:
        """The result of a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """The first element that matches."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """What is to be read in each visible element that matches."""
        script = """return [...document.querySelectorAll(arguments[0])].filter(
            (one) => one.checkVisibility()).map((one) => one.innerText.replace(/\\s+/g, " ").trim())"""
        found: list[str] = self.run(script, selector)
        return found

    def text(self, selector: str) -> str:
        """What is to be read in the first visible element that matches, or nothing."""
        return next(iter(self.texts(selector)), "")

    def looks(self) -> list[str]:
        """How each GPU is shown."""
        found: list[str] = self.run("return [...document.querySelectorAll('.gpu')].map((one) => one.dataset.look)")
        return found

    def wait_for(self, looks: list[str]) -> None:
        """Wait until the GPUs are shown so."""
        eventually(lambda: self.looks() == looks, seconds=20, every=0.05)

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        wider: int = self.run("const page = document.documentElement; return page.scrollWidth - page.clientWidth")
        return wider

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def forget_logs(self) -> None:
        """Drop what was logged so far."""
        self._log("browser")
        self._log("performance")

    def complaints(self) -> list[str]:
        """What the console says that is not mere information."""
        return [entry["message"] for entry in self._log("browser") if entry["level"] != "INFO"]

    def requested(self) -> list[str]:
        """Addresses that were asked for since the logs were forgotten."""
        messages: list[Mapping[str, Any]] = [
            orjson.loads(entry["message"])["message"] for entry in self._log("performance")
        ]
        sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if not one["request"]["url"].startswith("data:")]

    def answers(self) -> list[tuple[int, str]]:
        """Status and address of every answer since the logs were forgotten."""
        messages: list[Mapping[str, Any]] = [
            orjson.loads(entry["message"])["message"] for entry in self._log("performance")
        ]
        got = [one["params"]["response"] for one in messages if one["method"] == "Network.responseReceived"]
        return [(one["status"], one["url"]) for one in got]

    def picture(self, path: Path) -> None:
        """Save the whole page as it is to be seen, in so few colours that the file is small."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        wanted = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        taken = base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", wanted)["data"])
        with Image.open(BytesIO(taken)) as picture:
            picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
