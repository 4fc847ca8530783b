"""A guarded process, with a guard that is none."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from comfygate.backend.process import KILL_TIME, Command, Launched, launch


class Guard:
    """What the reactor gives a ProcessProtocol."""

    def __init__(self) -> None:
        self.said = b""
        self.signals: list[str] = []

    def writeToChild(self, fd: int, data: bytes) -> None:
        assert fd == 0
        self.said += data

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def launched(clock: Clock) -> Launched:
    process = Launched(clock, "no such mark")
    process.makeConnection(Guard())  # type: ignore[arg-type]
    return process


def end(launched: Launched, status: int = 0) -> None:
    launched.processEnded(Failure(ProcessTerminated(status)))


def result(launched: Launched) -> Any:
    found: list[Any] = []
    launched.exited.addBoth(found.append)
    return found[0] if found else None


def guard_of(launched: Launched) -> Any:
    return launched.transport


def test_a_life(launched: Launched) -> None:
    launched.childDataReceived(1, b"star")
    launched.childDataReceived(1, b"ted 123\nexited exit status 7\n")
    assert launched.pid == 123
    assert not launched.exited.called
    end(launched)
    assert result(launched) == "exit status 7"


def test_a_lost_worker_is_told_once(launched: Launched) -> None:
    told: list[str] = []
    launched.worker_lost.addCallback(told.append)
    launched.childDataReceived(1, b"started 123\nlost Exception in thread Thread-1 (prompt_worker)\nlost again\n")
    assert told == ["Exception in thread Thread-1 (prompt_worker)"]


def test_a_program_that_cannot_be_started(launched: Launched) -> None:
    launched.childDataReceived(1, b"failed cannot start x: No such file or directory\n")
    end(launched)
    assert result(launched) == "cannot start x: No such file or directory"
    assert launched.pid is None


def test_terminate_and_kill(launched: Launched, clock: Clock) -> None:
    launched.terminate()
    launched.kill()
    launched.kill()
    assert guard_of(launched).said == b"ikk"
    launched.childDataReceived(1, b"exited killed by signal 9\n")
    end(launched)
    assert clock.getDelayedCalls() == []
    launched.terminate()
    launched.kill()
    assert guard_of(launched).said == b"ikk"
    assert clock.getDelayedCalls() == []


def test_a_guard_that_does_not_kill_is_killed(launched: Launched, clock: Clock) -> None:
    launched.kill()
    clock.advance(KILL_TIME)
    assert guard_of(launched).signals == ["KILL"]
    end(launched, 9)
    assert "its guard ended without a report" in result(launched)


def test_cancelling_kills(launched: Launched) -> None:
    launched.exited.addErrback(lambda failure: failure.trap(CancelledError) and None)
    launched.exited.cancel()
    assert guard_of(launched).said == b"k"
    launched.childDataReceived(1, b"exited killed by signal 9\n")
    end(launched)


def test_a_line_without_end_is_not_kept(launched: Launched) -> None:
    for _ in range(100):
        launched.childDataReceived(1, b"x" * 65536)
    assert len(launched._line) <= 65536


class Spawner(Clock):
    """A reactor that notes what it is to start."""

    def spawnProcess(self, protocol: Any, executable: str, arguments: Any, **settings: Any) -> None:
        self.spawned = (executable, list(arguments), settings)


def test_launch() -> None:
    reactor = Spawner()
    command = Command(argv=("prog", "arg"), folder="/f", log_path="/l", environment={"A": "b"}, log_size=5, log_files=2)
    launch(reactor, command)  # type: ignore[arg-type]
    executable, arguments, settings = reactor.spawned
    assert arguments[0] == executable
    assert arguments[1:3] == ["-S", "-E"]
    assert arguments[3].endswith("/guard.py")
    assert arguments[4:] == ["/l", "5", "2", "/f", "--", "prog", "arg"]
    assert settings["childFDs"] == {0: "w", 1: "r", 2: "r"}
    assert settings["env"].pop("COMFYGATE_PROCESS")
    assert settings["env"] == {"A": "b"}
