"""Memory: at rest, with many idle connections, and when a reader is slow."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks.proxy.backends import FOUR_SIMULATORS, STATIC
from benchmarks.proxy.load import PIECE, Reader
from benchmarks.proxy.scenario import HAPROXY, OURS, PLAIN, PROXIES, TUNED, Figures, Promise, Scenario, Target

MIB = 1024 * 1024
RESTING = 2.0
"""Seconds after the start, in which what is only needed for it goes."""

CONNECTIONS = 1000
RATE = 1_000_000
"""Bytes per second of a slow reader."""

STEP = 0.05
"""Seconds between its reads."""

BUFFER = 64 * 1024
"""Bytes that the kernel holds for it."""

BOUND = 4
"""MiB of a body that may be held for one connection."""


def rest(target: Target, seconds: float) -> Figures:
    """All of it, before anybody has come."""
    time.sleep(RESTING)
    memory = target.memory()
    return {"RSS MiB": memory.rss / MIB, "PSS MiB": memory.pss / MIB}


def idle_connections(target: Target, seconds: float) -> Figures:
    """With clients that have asked once, and stay."""
    with Reader(target.port) as reader:
        reader.get("/embeddings")
    before = target.memory()
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(Reader(target.port)).get("/embeddings")
        after = target.memory()
    return {"RSS MiB": after.rss / MIB, "kB/connection": (after.rss - before.rss) / CONNECTIONS / 1e3}


def slow_reader(target: Target, seconds: float) -> Figures:
    """While somebody reads a long body at a slow pace: the most that it ever was."""
    with Reader(target.port) as reader:
        for _ in range(10):
            reader.get("/embeddings")
    before = most = target.memory().rss
    with Reader(target.port, receive_buffer=BUFFER) as reader:
        reader.ask("GET", "/files/500MB")
        left, began, got = reader.head(), time.monotonic(), 0
        while (now := time.monotonic()) < began + seconds and got < left:
            due = int(RATE * (now - began)) - got
            while due > 0:
                more = reader.discard(min(due, PIECE))
                got, due = got + more, due - more
            most = max(most, target.memory().rss)
            time.sleep(STEP)
    return {"RSS grown MiB": (most - before) / MIB, "read MB/s": got / (time.monotonic() - began) / 1e6}


FOUR = (TUNED, HAPROXY, OURS, PLAIN)
REST = "memory at rest, 4 GPUs and the hub"
IDLE = f"memory, {CONNECTIONS} idle connections"
SLOW = "memory, a reader at 1 MB/s of 500 MB"

SCENARIOS = [
    Scenario(REST, FOUR_SIMULATORS, rest, variants=FOUR, fresh=True),
    Scenario(IDLE, STATIC, idle_connections, variants=FOUR, fresh=True),
    Scenario(SLOW, STATIC, slow_reader, variants=PROXIES, seconds=4.0, fresh=True),
]
PROMISES = [
    Promise("memory of the daemon at rest, MiB", REST, "RSS MiB", 64),
    Promise("memory for a slow reader, MiB", SLOW, "RSS grown MiB", BOUND),
]
PLOTTED: list[tuple[str, str]] = []
