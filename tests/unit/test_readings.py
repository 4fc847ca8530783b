"""Readings of devices and processes, with a driver that can be in trouble."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger

from comfygate.backend.readings import (
    FRESH,
    NOTHING,
    TIME_OUT,
    Devices,
    Reading,
    Readings,
    call_in_thread,
    resident_bytes,
)

GIB = 1024**3


class FakeNVML(SimpleNamespace):
    """NVML with one card that tells everything and a part of a card that tells its memory only."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.open = 0
        self.looked_up: list[str] = []

    def _check(self, what: str) -> None:
        if what in self.broken:
            raise self.NVMLError(what)

    def nvmlInit(self) -> None:
        self._check("init")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._check("handle")
        if not uuid.startswith(("GPU-a", "MIG-b")):
            raise self.NVMLError("Not Found")
        self.looked_up.append(uuid)
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        self._check("memory")
        return SimpleNamespace(used=5 * GIB, total=24 * GIB, free=19 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        if handle.startswith("MIG"):
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=87, memory=30)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        if handle.startswith("MIG"):
            raise self.NVMLError("Invalid Argument")
        return 61


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNVML:
    fake = FakeNVML()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


WHOLE = Reading(memory_used=5 * GIB, memory_total=24 * GIB, utilisation=0.87, temperature=61.0)
PART = Reading(memory_used=5 * GIB, memory_total=24 * GIB)


def test_devices_tell_what_they_can(nvml: FakeNVML) -> None:
    devices = Devices({0: "GPU-a", 3: "MIG-b", 4: "GPU-gone"})
    assert devices.read({}) == {0: WHOLE, 3: PART, 4: NOTHING}
    assert devices.read({}) == {0: WHOLE, 3: PART, 4: NOTHING}
    assert nvml.looked_up == ["GPU-a", "MIG-b"]
    assert nvml.open == 1
    devices.close()
    devices.close()
    assert nvml.open == 0


def test_a_card_that_was_lost_is_looked_up_again(nvml: FakeNVML) -> None:
    devices = Devices({0: "GPU-a"})
    devices.read({})
    nvml.broken.add("memory")
    assert devices.read({})[0] == Reading(utilisation=0.87, temperature=61.0)
    nvml.broken = {"handle"}
    assert devices.read({}) == {0: NOTHING}
    nvml.broken = set()
    assert devices.read({}) == {0: WHOLE}
    assert nvml.looked_up == ["GPU-a"] * 2


def test_without_a_driver_the_processes_are_read_all_the_same(nvml: FakeNVML) -> None:
    nvml.broken.add("init")
    devices = Devices({0: "GPU-a"})
    memory = devices.read({0: os.getpid(), 1: 2**22})
    assert (memory[0].process_memory or 0) > 1_000_000
    assert memory[0].memory_used is None
    assert memory[1] == NOTHING
    devices.close()
    assert nvml.open == 0


def test_nvml_is_not_loaded_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Devices({}).read({}) == {}


def test_resident_bytes_of_nobody() -> None:
    assert resident_bytes(2**22) is None


class Slow:
    """A thread that ends when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.calls: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.closed = 0
        self.readings = Readings(self.clock, self.call, self, lambda: {0: 1})

    def call(self, function: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.calls.append((function, done))
        return done

    def end(self) -> None:
        function, done = self.calls.pop(0)
        done.callback(function())

    def read(self, pids: Mapping[int, int]) -> Mapping[int, Reading]:
        assert pids == {0: 1}
        return {0: WHOLE}

    def close(self) -> None:
        self.closed += 1


def test_never_two_at_once_and_not_before_the_last_is_old() -> None:
    slow = Slow()
    first, second = slow.readings.refresh(), slow.readings.refresh()
    assert len(slow.calls) == 1
    assert not first.called
    slow.end()
    assert first.called
    assert second.called
    assert slow.readings.of(0) == WHOLE
    assert slow.readings.of(1) == NOTHING
    slow.clock.advance(FRESH / 2)
    assert slow.readings.refresh().called
    assert not slow.calls
    slow.clock.advance(FRESH / 2)
    slow.readings.refresh()
    assert len(slow.calls) == 1
    slow.end()
    assert not slow.clock.getDelayedCalls()


def test_one_that_takes_too_long_is_not_waited_for() -> None:
    slow = Slow()
    slow.readings.refresh()
    slow.end()
    slow.clock.advance(FRESH)
    waiting = slow.readings.refresh()
    slow.clock.advance(TIME_OUT)
    assert waiting.called
    assert slow.readings.of(0) == NOTHING
    assert slow.readings.refresh().called
    assert len(slow.calls) == 1
    slow.end()
    assert slow.readings.of(0) == WHOLE
    slow.readings.close()
    slow.end()
    assert slow.closed == 1


def test_the_driver_is_let_go_when_nobody_asks_it() -> None:
    slow = Slow()
    waiting = slow.readings.refresh()
    slow.readings.close()
    assert waiting.called
    assert len(slow.calls) == 1
    slow.end()
    slow.end()
    assert slow.closed == 1
    assert slow.readings.refresh().called
    assert not slow.clock.getDelayedCalls()


def test_a_fault_is_logged_and_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    observer: Any = logged.append
    monkeypatch.setattr(Readings, "_log", Logger(observer=observer))
    slow = Slow()
    waiting = slow.readings.refresh()
    slow.calls.pop()[1].errback(ValueError("nonsense"))
    assert waiting.called
    assert slow.readings.of(0) == NOTHING
    assert "nonsense" in logged[0]["log_failure"].getErrorMessage()


def test_a_thread_of_its_own() -> None:
    class Reactor:
        """Has one thing to do, and waits for it."""

        def __init__(self) -> None:
            self.calls: list[Any] = []

        def callFromThread(self, *call: Any) -> None:
            self.calls.append(call)

    reactor = Reactor()
    good = call_in_thread(reactor, lambda: 5)
    while not reactor.calls:
        pass
    function, *arguments = reactor.calls.pop()
    function(*arguments)
    assert good.result == 5
    bad = call_in_thread(reactor, lambda: 1 // 0)
    while not reactor.calls:
        pass
    function, *arguments = reactor.calls.pop()
    function(*arguments)
    caught: list[Any] = []
    bad.addErrback(caught.append)
    assert caught[0].check(ZeroDivisionError)
