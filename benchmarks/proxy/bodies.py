"""Large bodies: how fast, at what cost, and what small requests notice of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from benchmarks.proxy.backends import SINK, STATIC
from benchmarks.proxy.load import Large, download, small, upload
from benchmarks.proxy.processor import Used
from benchmarks.proxy.scenario import BUSY, DEBIAN, TUNED, Figures, Promise, Scenario, Target

SPEED, COST = "MB/s", "CPU s/GB"
AT_ONCE = (1, 4)
IMAGES_AT_ONCE = 8
BESIDE = 4
"""Downloads, and connections of small requests beside them."""


def figures(moved: Large, used: Used) -> Figures:
    """What is told of large bodies."""
    return {SPEED: moved.rate, COST: used.cpu / moved.size * 1e9, BUSY: used.busy}


def down(path: str, at_once: int) -> Callable[[Target, float], Figures]:
    """Measure downloads of a file."""

    def measure(target: Target, seconds: float) -> Figures:
        with target.used() as used:
            moved = download(target.port, path, at_once=at_once, seconds=seconds)
        return figures(moved, used)

    return measure


def up(at_once: int) -> Callable[[Target, float], Figures]:
    """Measure uploads, as the page makes them."""

    def measure(target: Target, seconds: float) -> Figures:
        source = cast("Path", target.behind.details["source"])
        with target.used() as used:
            moved = upload(target.port, "/upload/image", source, at_once=at_once, seconds=seconds)
        return figures(moved, used)

    return measure


def beside(target: Target, seconds: float) -> Figures:
    """Small requests while large files are downloaded."""
    with ThreadPoolExecutor(1) as thread, target.used() as used:
        # Longer than the small requests, so that these are never alone.
        downloads = thread.submit(
            download, target.port, "/files/100MB", at_once=BESIDE, seconds=max(1.0, round(seconds)) + 0.5
        )
        found = small(target.port, "/embeddings", target.folder, connections=BESIDE, seconds=seconds)
        moved = downloads.result()
    return {
        "p50 ms": found.p50,
        "p99 ms": found.p99,
        "requests/s": found.rate,
        SPEED: moved.rate,
        BUSY: used.busy,
    }


DOWN, UP = "100 MB down, {} at a time", "100 MB up, {} at a time"
IMAGES = f"2 MB images, {IMAGES_AT_ONCE} at a time"
BESIDE_DOWNLOADS = f"small requests during {BESIDE} downloads"

SCENARIOS = [
    *(Scenario(DOWN.format(n), STATIC, down("/files/100MB", n)) for n in AT_ONCE),
    Scenario(IMAGES, STATIC, down("/files/2MB", IMAGES_AT_ONCE)),
    Scenario(BESIDE_DOWNLOADS, STATIC, beside),
    *(Scenario(UP.format(n), SINK, up(n)) for n in AT_ONCE),
]

NAMES = [*(DOWN.format(n) for n in AT_ONCE), IMAGES, *(UP.format(n) for n in AT_ONCE)]

PROMISES = [
    *(Promise(f"{name}, speed", name, SPEED, 2.5, DEBIAN, at_least=True) for name in NAMES),
    *(Promise(f"{name}, speed", name, SPEED, 0.95, TUNED, at_least=True) for name in NAMES),
    *(Promise(f"{name}, CPU", name, COST, 1.0, TUNED) for name in NAMES),
    *(Promise(f"{BESIDE_DOWNLOADS}, p99", BESIDE_DOWNLOADS, "p99 ms", 1.0, other) for other in (TUNED, DEBIAN)),
]
PLOTTED = [(name, figure) for name in NAMES for figure in (SPEED, COST)]
