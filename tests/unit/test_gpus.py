"""Backends come, go and are started again as plans follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock

from comfygate import gpus as module
from comfygate.backend.fleet import Fleet
from comfygate.changes import Changes, compare
from comfygate.errors import GateError
from comfygate.gpus import Gpus
from comfygate.model import BackendState, Device
from comfygate.plan import Plan
from tests.unit.fakes import FakeBackend
from tests.unit.test_changes import BASE, plan


class Startable(FakeBackend):
    """One that tells of its start."""

    def __init__(self, gpu_id: int) -> None:
        super().__init__(gpu_id)
        self.state = BackendState.STOPPED

    def start(self) -> None:
        self.become(BackendState.STARTING)
        self.become(BackendState.READY)


class Stage:
    """GPUs whose restarts and ends a test carries out."""

    def __init__(self, first: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.plan = first
        self.fleet = Fleet([Startable(gpu_id) for gpu_id in first.gpu_ids])
        self.ending: dict[int, Deferred[None]] = {}
        self.restarts: list[tuple[list[int], Deferred[None]]] = []
        self.refusal: GateError | None = None
        self.removed: list[int] = []
        monkeypatch.setattr(module, "make_backend", lambda reactor, plan, gpu_id, options: Startable(gpu_id))
        options: Any = None
        self.gpus = Gpus(self.clock, first, self.fleet, options, self, self.removed.append)
        for backend in self.fleet:
            backend.start()

    def restart(self, gpu_ids: Sequence[int]) -> Deferred[None]:
        if self.refusal is not None:
            raise self.refusal
        self.restarts.append((list(gpu_ids), Deferred()))
        return self.restarts[-1][1]

    def retire(self, gpu_id: int) -> Deferred[None]:
        self.ending[gpu_id] = Deferred()
        return self.ending[gpu_id]

    def follow(self, new: Plan) -> Changes:
        changes = compare(self.plan, new, self.gpus.runs)
        self.plan = new
        self.gpus.carry_out(changes, self.gpus.prepare(new))
        return changes

    def restarted(self, gpu_id: int) -> None:
        """One of those that are restarted has begun to start."""
        backend: Any = self.fleet[gpu_id]
        backend.become(BackendState.STARTING)
        backend.become(BackendState.READY)

    def states(self) -> dict[int, BackendState]:
        return {backend.gpu_id: backend.state for backend in self.fleet}


READY, STOPPED = BackendState.READY, BackendState.STOPPED
TWO, THREE = plan(BASE.replace("cpu*3", "cpu*2")), plan(BASE)
OTHER = plan(BASE + "arguments = --other\n")


def test_new_ones_are_there_at_once_and_start(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(TWO, monkeypatch)
    stage.follow(THREE)
    assert stage.states() == {0: READY, 1: READY, 2: READY}
    assert stage.restarts == []


def test_old_ones_are_there_until_they_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(THREE, monkeypatch)
    stage.follow(TWO)
    assert list(stage.states()) == [0, 1, 2]
    stage.follow(TWO)
    assert list(stage.ending) == [2]
    stage.ending[2].callback(None)
    assert list(stage.states()) == [0, 1]
    assert stage.removed == [2]
    assert set(stage.gpus.runs) == {0, 1}


def test_one_that_leaves_and_is_wanted_again_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(THREE, monkeypatch)
    old = stage.fleet[2]
    stage.follow(TWO)
    stage.follow(THREE)
    assert stage.fleet[2] is old
    stage.ending[2].callback(None)
    assert stage.fleet[2] is not old
    assert stage.states() == {0: READY, 1: READY, 2: READY}
    assert stage.removed == []


def test_those_that_run_otherwise_are_restarted_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(THREE, monkeypatch)
    stage.follow(OTHER)
    stage.follow(OTHER)
    assert [gpu_ids for gpu_ids, _ in stage.restarts] == [[0, 1, 2]]
    for gpu_id in range(3):
        stage.restarted(gpu_id)
    stage.restarts[0][1].callback(None)
    assert len(stage.restarts) == 1


def test_what_changed_once_more_meanwhile_is_restarted_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(THREE, monkeypatch)
    stage.follow(OTHER)
    stage.restarted(0)
    stage.follow(plan(BASE + "arguments = --third\n"))
    for gpu_id in (1, 2):
        stage.restarted(gpu_id)
    stage.restarts[0][1].callback(None)
    assert [gpu_ids for gpu_ids, _ in stage.restarts] == [[0, 1, 2], [0]]


def test_where_one_does_not_start_the_others_are_left_alone_until_the_next_reload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(THREE, monkeypatch)
    stage.follow(OTHER)
    stage.restarted(0)
    stage.restarts[0][1].errback(GateError(502, "restart_failed", "GPU 0 failed to start"))
    assert len(stage.restarts) == 1
    assert stage.follow(THREE).restarted == (0,)
    assert stage.restarts[1][0] == [0]


def test_a_restart_of_the_operators_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(THREE, monkeypatch)
    stage.refusal = GateError(409, "restart_under_way", "Another restart goes on", retry_after=5)
    stage.follow(OTHER)
    stage.restarted(1)  # by the operator
    stage.refusal = None
    stage.clock.advance(5)
    assert [gpu_ids for gpu_ids, _ in stage.restarts] == [[0, 2]]


def test_one_becomes_someone_elses_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(THREE, monkeypatch)
    ours = stage.fleet[1]
    stage.follow(plan(BASE + "[gpu:1]\nurl = http://h:1\n"))
    assert list(stage.ending) == [1]
    assert stage.restarts == []
    stage.ending[1].callback(None)
    assert stage.fleet[1] is not ours
    assert stage.states()[1] is READY
    assert stage.gpus.runs[1].url == "http://h:1"


def test_a_device_changes_hands_when_its_old_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(found: Plan, *uuids: str) -> Plan:
        devices = {
            n: Device(gpu_id=n, label=uuid, name=uuid, environment={"CUDA_VISIBLE_DEVICES": uuid})
            for n, uuid in enumerate(uuids)
        }
        return evolve(found, devices=devices)

    stage = Stage(on(THREE, "GPU-a", "GPU-b", "GPU-c"), monkeypatch)
    stage.follow(on(TWO, "GPU-a", "GPU-c"))
    assert list(stage.ending) == [2]
    assert stage.restarts == []
    stage.ending[2].callback(None)
    assert [gpu_ids for gpu_ids, _ in stage.restarts] == [[1]]
    stage.restarted(1)
    stage.restarts[0][1].callback(None)
    # The other way round: GPU 1 lets go of its device before GPU 2 begins.
    stage.follow(on(THREE, "GPU-a", "GPU-b", "GPU-c"))
    assert stage.states()[2] is STOPPED
    stage.restarted(1)
    stage.restarts[1][1].callback(None)
    assert stage.states()[2] is READY


def test_nothing_is_begun_once_the_daemon_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(THREE, monkeypatch)
    stage.follow(plan(BASE.replace("cpu*3", "cpu*2") + "arguments = --a\n"))
    stage.gpus.close()
    assert stage.restarts[0][1].called
    stage.ending[2].addErrback(lambda failure: failure.trap(CancelledError))
    stage.clock.advance(100)
    assert len(stage.restarts) == 1
    assert 2 in stage.fleet


def test_a_failure_of_one_end_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(THREE, monkeypatch)
    stage.retire = lambda gpu_id: fail(ValueError("oops"))  # type: ignore[method-assign]
    stage.follow(TWO)
    assert 2 in stage.fleet
    del stage.retire
    stage.follow(TWO)
    stage.ending[2].callback(None)
    assert stage.removed == [2]
