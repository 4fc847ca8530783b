"""What several test files here share."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import txaio
from twisted.internet import tcp
from twisted.internet.task import Clock
from twisted.python import log
from twisted.python.failure import Failure

from comfygate.gate.fast_path import splices
from comfygate.gate.fast_path.pipes import MOST_IDLE, Pipes
from comfygate.gate.fast_path.transports import DirectServer
from tests.unit.bridging import Gate
from tests.unit.loopback import Coupled, Loop, Made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that Autobahn looks at, too."""
    clock = Clock()
    monkeypatch.setattr(txaio.config, "loop", clock)  # type: ignore[attr-defined]
    return clock


@pytest.fixture
def gate(clock: Clock) -> Gate:
    """WebSockets between wires."""
    return Gate(clock)


@pytest.fixture(params=["spun", "not spun"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    """A reactor that the test turns, on the shorter way and on Twisted's."""
    loop = Loop(spun=request.param == "spun")
    yield loop
    loop.close()


@pytest.fixture(params=[tcp.Server, DirectServer], ids=["Twisted's", "ours"])
def made(request: pytest.FixtureRequest) -> Made:
    """Both ways to send and receive must behave the same."""
    made: Made = request.param
    return made


@pytest.fixture
def pipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipes]:
    """None but those of the test; all must have come back."""
    pipes = Pipes()
    monkeypatch.setattr(splices, "PIPES", pipes)
    yield pipes
    assert pipes.lent == 0 and not splices.UNDER_WAY
    assert len(pipes.idle) <= MOST_IDLE
    for pipe in pipes.idle:
        with pytest.raises(BlockingIOError):  # it is empty
            os.read(pipe[0], 1)
    pipes.close()


@pytest.fixture
def coupled(loop: Loop, pipes: Pipes) -> Coupled:
    """A source and a sink."""
    return Coupled(loop)


@pytest.fixture
def errors() -> Iterator[list[Failure]]:
    """What is logged with a traceback."""
    found: list[Failure] = []

    def note(event: dict[str, Any]) -> None:
        if event.get("isError"):
            found.append(event["failure"])

    log.addObserver(note)
    yield found
    log.removeObserver(note)
