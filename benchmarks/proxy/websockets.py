"""Scenarios about WebSockets: what messages cost on their way through a proxy, how soon they come, and idle ones.

Messages are sent at a fixed rate, whether or not they are taken, each to one
client; how soon one is delivered is measured from the moment when the emitter
hands it to the kernel to the moment when its last byte has been read.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from attrs import frozen

from benchmarks.proxy import messages
from benchmarks.proxy.backends import FOUR_SIMULATORS
from benchmarks.proxy.processor import watched
from benchmarks.proxy.scenario import (
    BUSY,
    DEBIAN,
    DIRECT,
    OURS,
    PLAIN,
    VARIANTS,
    Backend,
    Behind,
    Figures,
    MeasuringError,
    Promise,
    Scenario,
    Target,
)
from benchmarks.proxy.servers import ROOT, process
from tests.ports import free_ports

CLIENTS = (1, 50, 500)
RATES = {
    messages.JSON: {1: 1000.0, 50: 5000.0, 500: 5000.0},
    messages.PREVIEW: {1: 100.0, 50: 200.0, 500: 200.0},
}
"""Messages a second to all clients together: below what saturates one of two cores."""

IDLE = 500
WARM = 20
"""WebSockets that a proxy had open already before the idle ones: what only the first one costs is not theirs."""

WARM_UP = 0.3
"""Seconds of messages before those that count."""

LOAD = "load's cores"
"""How busy what sends or what receives was: far from 1, as it must not be the bottleneck."""

_GROUP = "benchmark"
_BATCH = 16
"""Messages that go out together where it is all about how many there are."""

MANY = 60_000.0
"""Messages for each second that is asked for, where they are sent as fast as they are taken."""


@contextmanager
def _emitter(folder: Path) -> Iterator[Behind]:
    port = free_ports()
    with process([sys.executable, "-m", "benchmarks.proxy.emitter", str(port)], folder, port) as pid:
        yield Behind(port, {"pid": pid})


EMITTER = Backend("emitter of WebSocket messages", _emitter)
"""Sends messages, and is not the bottleneck."""


class Listeners:
    """The process with the clients.

    :param port: what they connect to.
    :raises MeasuringError: from all methods, if a connection was refused or lost.
    """

    def __init__(self, port: int, clients: int, *, deflate: bool = False, group: str = _GROUP) -> None:
        arguments = ["--port", str(port), "--clients", str(clients), "--group", group]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.proxy.listeners", *arguments, *(["--deflate"] if deflate else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )

    def report(self) -> dict[str, Any]:
        """What it says next: that all are connected, or what came of a run."""
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise MeasuringError(f"the listeners ended: {self.process.stderr.read().decode()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """Let it end."""
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@contextmanager
def listening(port: int, clients: int, *, deflate: bool = False, group: str = _GROUP) -> Iterator[Listeners]:
    """Connect clients, until the end of the block."""
    listeners = Listeners(port, clients, deflate=deflate, group=group)
    try:
        listeners.report()
        yield listeners
    finally:
        listeners.close()


def ask(port: int, path: str, **query: object) -> dict[str, Any]:
    """Ask the emitter."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", f"{path}?{urlencode(query)}")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


@frozen
class Stream:
    """Messages of one kind to so many clients.

    :ivar rate: messages a second to all together; 0 for as many as are taken.
    :ivar deflate: whether clients offer permessage-deflate, as browsers do.
    """

    kind: str
    clients: int
    rate: float
    deflate: bool = False

    def measure(self, target: Target, seconds: float) -> Figures:
        """Connect, warm up, and measure once."""
        with listening(target.port, self.clients, deflate=self.deflate) as listeners:
            self._send(target, listeners, WARM_UP)
            with target.used() as used, watched(_pids(target)) as emitter:
                found = self._send(target, listeners, seconds)
        if found["lost"]:
            raise MeasuringError(f"{found['lost']} of {found['messages'] + found['lost']} messages were lost")
        count = found["messages"]
        cpu = {"CPU µs/message": used.cpu / count * 1e6}
        if self.kind == messages.PREVIEW:
            cpu["CPU s/GB"] = used.cpu / (count * messages.SIZES[self.kind] / 1e9)
        if self.rate:
            told = {"p50 µs": found["p50_us"], "p99 µs": found["p99_us"]}
        else:  # most of the time they waited in the emitter
            told = {"messages/s": count / found["seconds"]}
        cores = max(emitter.cpu, found["listeners_cpu"]) / used.wall
        return {**told, **cpu, BUSY: used.busy, LOAD: cores}

    def _send(self, target: Target, listeners: Listeners, seconds: float) -> dict[str, Any]:
        rate = self.rate or MANY
        count = max(self.clients, round(rate * seconds))
        batch = 1 if self.rate else _BATCH
        query = {"kind": self.kind, "rate": self.rate, "count": count, "batch": batch, "group": _GROUP}
        said = ask(target.behind.port, "/start", **query)
        if said["clients"] != self.clients:
            raise MeasuringError(f"the emitter has {said['clients']} clients instead of {self.clients}")
        return listeners.report()


def _pids(target: Target) -> tuple[int, ...]:
    pid = target.behind.details["pid"]
    assert isinstance(pid, int)
    return (pid,)


def idle(port_of: Callable[[Target], int]) -> Callable[[Target, float], Figures]:
    """Measure what an idle WebSocket costs of memory.

    :param port_of: which of the proxy's ports.
    """

    def measure(target: Target, seconds: float) -> Figures:
        port = port_of(target)
        with listening(port, WARM, group="warm"):
            before = target.memory().rss
            with target.used() as used, listening(port, IDLE, group="idle"):
                after = target.memory().rss
        return {"kB/WebSocket": (after - before) / IDLE / 1000, "CPU µs/WebSocket": used.cpu / IDLE * 1e6}

    return measure


def _hub(target: Target) -> int:
    return target.port + FOUR_SIMULATORS.gpus


def _name(kind: str, clients: int) -> str:
    what = "200 B of JSON" if kind == messages.JSON else "previews of 100 kB"
    return f"WebSocket: {what} to {clients} client{'s' if clients > 1 else ''}"


def _streams() -> Iterator[Scenario]:
    for kind, rates in RATES.items():
        for clients, rate in rates.items():
            # The fewer messages, the longer it takes until one in a hundred says something.
            seconds = 2.0 if rate < 1000 else 1.0
            yield Scenario(_name(kind, clients), EMITTER, Stream(kind, clients, rate).measure, VARIANTS, seconds)
    for clients, rate in RATES[messages.PREVIEW].items():
        yield Scenario(
            _offered(clients),
            EMITTER,
            # What the backend has to compress, it must have time for.
            Stream(messages.PREVIEW, clients, min(rate, 100.0), deflate=True).measure,
            (DIRECT, DEBIAN, OURS, PLAIN),
        )
    yield Scenario(
        "WebSocket: as much JSON as one client gets", EMITTER, Stream(messages.JSON, 1, 0.0).measure, VARIANTS
    )


def _offered(clients: int) -> str:
    return f"{_name(messages.PREVIEW, clients)}, permessage-deflate offered"


IDLE_GPU = "WebSocket: idle, on a GPU's port"
IDLE_HUB = "WebSocket: idle, on the hub of four GPUs"

SCENARIOS = (
    *_streams(),
    Scenario(IDLE_GPU, EMITTER, idle(lambda target: target.port), VARIANTS[1:], fresh=True),
    Scenario(
        IDLE_HUB, FOUR_SIMULATORS, idle(lambda target: target.port + FOUR_SIMULATORS.gpus), (OURS, PLAIN), fresh=True
    ),
)


def _promises() -> Iterator[Promise]:
    for clients in CLIENTS:
        name = _name(messages.PREVIEW, clients)
        yield Promise(f"{name}: no more CPU than nginx", name, "CPU µs/message", 1.0, DEBIAN)
        yield Promise(f"{name}: as soon as by nginx", name, "p99 µs", 1.0, DEBIAN)
        yield Promise(f"{name}: sooner than from a ComfyUI that compresses", _offered(clients), "p50 µs", 1.0, DIRECT)
    for name in (IDLE_GPU, IDLE_HUB):
        yield Promise(f"{name}: at most 40 kB", name, "kB/WebSocket", 40.0)


PROMISES = tuple(_promises())
PLOTTED = [(_name(messages.PREVIEW, clients), "CPU µs/message") for clients in CLIENTS]
