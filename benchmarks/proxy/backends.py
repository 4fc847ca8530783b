"""What stands behind the proxies, and is not what is measured."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from benchmarks.proxy.scenario import Backend, Behind
from benchmarks.proxy.servers import nginx, process
from tests.ports import free_ports

MB = 1_000_000
SIZES = {"100MB": 100 * MB, "500MB": 500 * MB, "2MB": 2 * MB}
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
    files = folder / "files"
    files.mkdir()
    for name, size in SIZES.items():
        _make(files / name, size)
    for number, size in enumerate(page_sizes()):
        _make(files / f"page-{number}.js", size)
    with nginx("nginx-backend.conf", folder, small=SMALL) as (port, _):
        yield Behind(port)


def _make(path: Path, size: int) -> None:
    """Write a file of random bytes, which nothing on the way can shorten."""
    piece = os.urandom(min(size, MB))
    with path.open("wb") as file:
        for at in range(0, size, MB):
            file.write(piece[: size - at])


@contextmanager
def _sink(folder: Path) -> Iterator[Behind]:
    port = free_ports()
    with process([sys.executable, "-m", "benchmarks.proxy.sink", str(port)], folder, port):
        yield Behind(port)


STATIC = Backend("static nginx", _static)
"""Answers from memory, and files out of the page cache."""

SINK = Backend("sink", _sink)
"""Answers anything, after it has thrown the body away."""
