"""What stands behind the proxies, and is not what is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from benchmarks.proxy.scenario import Backend, Behind
from benchmarks.proxy.servers import nginx, process
from tests.contract.conftest import real, simulator
from tests.ports import free_ports

MB = 1_000_000
SIZES = {"100MB": 100 * MB, "500MB": 500 * MB, "2MB": 2 * MB}
IMAGES = {"small.png": 60_000, "large.png": 2 * MB}
"""What a real ComfyUI is asked for; it does not look into them."""

PAGE = 478
"""Requests that the stock page makes to its own origin in the first 3 s of a cold load (frontend 1.27.10)."""

SMALL = orjson.dumps({"embeddings": [f"embedding-{n:03}" for n in range(10)]}).decode().ljust(200)


def page_sizes() -> list[int]:
    """Bytes of each of the page's files, about as in the stock page: some 12 MB in all, most of them small.

    A few large bundles, some of some 100 kB, and hundreds of scripts and
    translations of a few kB.
    """
    large = [3_500_000, 1_500_000, 900_000, 600_000, 400_000, 300_000]
    middle = [40_000 + 2_000 * n for n in range(40)]
    small = [500 + 37 * n % 9_000 for n in range(PAGE - len(large) - len(middle))]
    return [*large, *middle, *small]


@contextmanager
def _static(folder: Path) -> Iterator[Behind]:
    for name, size in SIZES.items():
        _make(folder / "files" / name, size)
    for number, size in enumerate(page_sizes()):
        _make(folder / "files" / f"page-{number:05}.js", size)
    with _answers(folder) as behind:
        yield behind


@contextmanager
def _answers(folder: Path) -> Iterator[Behind]:
    with nginx("nginx-backend.conf", folder, small=SMALL) as (port, _):
        yield Behind(port)


def _make(path: Path, size: int) -> None:
    """Make a file of so many zeros that takes no room on the disk: it is only ever read from the page cache."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


@contextmanager
def _sink(folder: Path) -> Iterator[Behind]:
    port, source = free_ports(), folder / "upload"
    _make(source, SIZES["100MB"])
    with process([sys.executable, "-m", "benchmarks.proxy.sink", str(port)], folder, port):
        yield Behind(port, {"source": source})


@contextmanager
def _simulator(folder: Path) -> Iterator[Behind]:
    with simulator(folder) as comfyui:
        yield Behind(int(comfyui.base_url.rpartition(":")[2]))


@contextmanager
def _real(folder: Path) -> Iterator[Behind]:
    with real(folder) as comfyui:
        for name, size in IMAGES.items():
            _make(folder / "output" / name, size)
        yield Behind(int(comfyui.base_url.rpartition(":")[2]))


STATIC = Backend("nginx", _static)
"""Answers from memory, and files out of the page cache."""

SINK = Backend("sink", _sink)
"""Answers anything, after it has thrown the body away."""

ONE_SIMULATOR = Backend("simulator", _simulator, comfygate="comfyui = simulator\ndevices = cpu*1")
"""A simulator; ComfyGate starts one of its own, whose companion it needs to check prompts."""

FOUR_SIMULATORS = Backend("nginx, four simulators", _answers, comfygate="comfyui = simulator\ndevices = cpu*4", gpus=4)
"""For ComfyGate at rest with all that it has: four GPUs' ports and the hub."""

REAL = Backend("ComfyUI", _real)
"""The ComfyUI in COMFYUI_HOME; the same one behind all, ComfyGate included."""
