"""The stock page, cold: all that it fetches from its own origin, as a browser fetches it."""

from __future__ import annotations

from benchmarks.proxy.backends import PAGE, STATIC
from benchmarks.proxy.load import BROWSER, small
from benchmarks.proxy.scenario import BUSY, Figures, Promise, Scenario, Target

CONNECTIONS = 6
"""Browsers open no more to one host."""

ASKED = {**BROWSER, "Accept": "*/*", "Sec-Fetch-Dest": "script", "Referer": "http://127.0.0.1:8188/"}


def page(target: Target, seconds: float) -> Figures:
    """The page's files, over and over; told for one page."""
    with target.used() as used:
        found = small(
            target.port,
            "/files/page-%d.js",
            target.folder,
            connections=CONNECTIONS,
            seconds=seconds,
            headers=ASKED,
            different=PAGE,
        )
    pages = found.requests / PAGE
    return {
        "ms/page": 1e3 * found.seconds / pages,
        "CPU ms/page": 1e3 * used.cpu / pages,
        "p99 ms": found.p99,
        BUSY: used.busy,
    }


NAME = f"the page's {PAGE} requests"
SCENARIOS = [Scenario(NAME, STATIC, page)]
PROMISES: list[Promise] = []
PLOTTED = [(NAME, "ms/page")]
