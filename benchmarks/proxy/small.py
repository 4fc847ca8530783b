"""Small requests: how many, how soon, and what each costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.proxy.backends import STATIC
from benchmarks.proxy.load import BROWSER, Reader, Small, small
from benchmarks.proxy.processor import Used
from benchmarks.proxy.scenario import BUSY, DIRECT, TUNED, Figures, Promise, Scenario, Target

CONNECTIONS = (1, 16, 128)
BODY = bytes(range(32, 127)).replace(b'"', b"'").replace(b"\\", b"/") * 43 + b" " * 11
PAUSE = 0.004
"""Seconds between two requests that are made one at a time."""

WARM_UP = 20


def figures(found: Small, used: Used) -> Figures:
    """What is told of small requests."""
    return {
        "requests/s": found.rate,
        "p50 ms": found.p50,
        "p99 ms": found.p99,
        "CPU µs/request": 1e6 * used.cpu / found.requests,
        BUSY: used.busy,
    }


def flood(
    connections: int, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Callable[[Target, float], Figures]:
    """Measure as many small requests as it takes; see :func:`benchmarks.proxy.load.small`."""

    def measure(target: Target, seconds: float) -> Figures:
        with target.used() as used:
            found = small(
                target.port,
                path,
                target.folder,
                connections=connections,
                seconds=seconds,
                body=body,
                headers=headers,
            )
        return figures(found, used)

    return measure


def idle(target: Target, seconds: float) -> Figures:
    """One request at a time, with pauses in which everybody goes to sleep."""
    took = []
    with Reader(target.port) as reader:
        for _ in range(WARM_UP):
            reader.get("/embeddings")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(PAUSE)
            began = time.perf_counter_ns()
            reader.get("/embeddings")
            took.append((time.perf_counter_ns() - began) / 1e3)
    return {"p50 µs": statistics.median(took), "p99 µs": statistics.quantiles(took, n=100)[98]}


VARYING = {**BROWSER, "Referer": "http://127.0.0.1:8188/"}
VARIED = "GET of a browser, each another address, 16 connections"
"""So that nobody is flattered who remembers what a head meant."""

SCENARIOS = [
    Scenario("one request, idle", STATIC, idle),
    *(Scenario(f"GET, {n} connections", STATIC, flood(n, "/embeddings")) for n in CONNECTIONS),
    *(Scenario(f"POST of 4 kB, {n} connections", STATIC, flood(n, "/userdata/a.json", BODY)) for n in CONNECTIONS),
    Scenario(
        VARIED,
        STATIC,
        flood(16, "/view?filename=ComfyUI_%d_.png&type=output&subfolder=&rand=0.3", headers=VARYING),
    ),
    Scenario("GET /queue, gpu_id added, 16 connections", STATIC, flood(16, "/queue")),
]

PROMISES = [
    *(
        Promise(
            f"small {method}s at {n} connections, rate", f"{name}, {n} connections", "requests/s", 0.85, TUNED, True
        )
        for method, name in (("GET", "GET"), ("POST", "POST of 4 kB"))
        for n in (16, 128)
    ),
    Promise("small GETs, each another, rate", VARIED, "requests/s", 0.85, TUNED, at_least=True),
    Promise("added latency, one request at a time", "GET, 1 connections", "p50 ms", 1.2, TUNED, less=DIRECT),
    Promise("added latency, one request after a pause", "one request, idle", "p50 µs", 1.2, TUNED, less=DIRECT),
]
PLOTTED = [*((f"GET, {n} connections", "requests/s") for n in CONNECTIONS), (VARIED, "requests/s")]
