"""One reading after the other, whole or not at all."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from comfygate.changes import Changes, Run
from comfygate.config.settings import ConfigError
from comfygate.plan import Plan
from comfygate.reload import READ_TIME, Reload
from tests.unit.test_changes import BASE, plan


class Stage:
    """A reload whose readings a test answers."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.readings: list[Deferred[Plan]] = []
        self.adopted: list[tuple[str, ...]] = []
        self.taken: str | None = None
        self.runs: Mapping[int, Run] = {}
        self.reload = Reload(self.clock, "gpus.ini", plan(BASE), lambda: plan(BASE), self._call, self)
        self.told: list[Any] = []

    def _call(self, read: Any) -> Deferred[Plan]:
        reading: Deferred[Plan] = Deferred()
        self.readings.append(reading)
        return reading

    def claim(self, plan: Plan, changes: Changes) -> dict[str, socket.socket]:
        if self.taken:
            raise plan.config.mistake("port", self.taken)
        return {}

    def adopt(self, plan: Plan, changes: Changes, sockets: object) -> None:
        self.adopted.append(changes.said)

    def ask(self) -> Deferred[Any]:
        asked = self.reload.reload()
        asked.addBoth(self.told.append)
        return asked

    def answer(self, text: str | Exception, number: int = -1) -> list[str]:
        """Answer a reading, and return what was logged."""
        with capturedLogs() as events:
            if isinstance(text, Exception):
                self.readings[number].errback(Failure(text))
            else:
                self.readings[number].callback(plan(BASE + text))
        return [str(formatEvent(event)) for event in events]


def test_what_changed_is_applied_and_told() -> None:
    stage = Stage()
    stage.ask()
    assert stage.answer("prefetch = 3\n") == ["reloaded gpus.ini: prefetch 2 → 3"]
    assert stage.told == [["prefetch 2 → 3"]]
    stage.ask()
    assert stage.answer("prefetch = 3\n") == ["reloaded gpus.ini: nothing changed"]
    assert stage.adopted == [("prefetch 2 → 3",), ()]


def test_what_is_wrong_or_taken_changes_nothing() -> None:
    stage = Stage()
    stage.ask()
    error = ConfigError("gpus.ini", "comfygate", "rate", "is wrong; mend it")
    before = "gpus.ini was not applied, everything goes on as before: "
    assert stage.answer(error) == [f"{before}gpus.ini, [comfygate] rate: is wrong; mend it."]
    assert stage.told[0].value is error
    stage.taken = "is taken; choose another"
    stage.ask()
    assert stage.answer("prefetch = 3\n") == [f"{before}gpus.ini, [comfygate] port: is taken; choose another."]
    stage.taken = None
    assert stage.adopted == []
    stage.ask()
    stage.answer("prefetch = 3\n")
    assert stage.adopted == [("prefetch 2 → 3",)], "compared with what is applied, not with what was refused"


def test_an_error_of_ours_changes_nothing_either() -> None:
    stage = Stage()
    stage.ask()
    first, second = stage.answer(ZeroDivisionError("oops"))
    assert "cannot be read" in first
    assert second == "gpus.ini was not applied, everything goes on as before: an error of ours: oops"
    assert stage.told[0].check(ZeroDivisionError)
    stage.ask()
    assert stage.answer("") == ["reloaded gpus.ini: nothing changed"]


def test_all_who_ask_while_it_is_read_wait_for_one_more_reading() -> None:
    stage = Stage()
    for _ in range(4):
        stage.ask()
    assert len(stage.readings) == 1
    stage.answer("prefetch = 3\n")
    assert len(stage.told) == 1
    assert len(stage.readings) == 2
    stage.answer("prefetch = 4\n")
    assert stage.told == [["prefetch 2 → 3"], *[["prefetch 3 → 4"]] * 3]
    assert len(stage.readings) == 2


def test_a_driver_that_does_not_answer_is_not_waited_for() -> None:
    stage = Stage()
    stage.ask()
    with capturedLogs() as events:
        stage.clock.advance(READ_TIME)
    assert "could not be checked within 30 s" in str(formatEvent(events[0]))
    assert stage.told[0].check(ConfigError)
    stage.ask()
    stage.answer("prefetch = 3\n")
    assert stage.adopted == [("prefetch 2 → 3",)]


def test_nothing_is_applied_once_the_daemon_stops() -> None:
    stage = Stage()
    stage.ask()
    stage.ask()
    stage.reload.close()
    assert stage.told[0].check(CancelledError)
    assert stage.told[1].check(ConfigError)
    stage.ask()
    assert stage.told[2].check(ConfigError)
    assert stage.adopted == []


def test_whoever_asked_may_leave() -> None:
    stage = Stage()
    stage.ask().cancel()
    stage.answer("prefetch = 3\n")
    assert stage.adopted == [("prefetch 2 → 3",)]
