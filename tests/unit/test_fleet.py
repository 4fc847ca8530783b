"""Backends come and go, and whoever still asks for one that is gone gets an answer."""

from __future__ import annotations

from typing import Any

import pytest

from comfygate.backend.fleet import Fleet
from comfygate.errors import BackendUnreachable
from comfygate.interfaces import IBackend
from comfygate.model import BackendState
from tests.unit.fakes import FakeBackend


class Listener:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def backend_changed(self, backend: IBackend) -> None:
        self.heard.append(backend.gpu_id)

    def queue_changed(self, backend: IBackend, remaining: int) -> None: ...


def fleet(*gpu_ids: int) -> Any:
    return Fleet([FakeBackend(gpu_id) for gpu_id in gpu_ids])  # type: ignore[list-item]


def test_listeners_hear_of_those_that_come_later() -> None:
    one, listener = fleet(0, 2), Listener()
    one.subscribe(listener)
    one.add(FakeBackend(1))
    assert one.gpu_ids == (0, 1, 2)
    another = FakeBackend(2)
    one.add(another)
    assert one[2] is another
    for backend in one:
        backend.become(BackendState.READY)
    assert listener.heard == [0, 1, 2]


def test_it_may_change_while_somebody_goes_through_it() -> None:
    one = fleet(0, 1)
    for backend in one:
        one.remove(backend.gpu_id)
    assert one.gpu_ids == ()


def test_one_that_is_gone_does_not_answer() -> None:
    one = fleet(0, 1)
    one.remove(1)
    assert 1 not in one
    assert [backend.gpu_id for backend in one.ready((1, 0))] == [0]
    assert one.first_ready((1, 0)).gpu_id == 0
    with pytest.raises(BackendUnreachable, match="GPU 1 is gone"):
        one.client(1)
    error = one.unavailable((1,))
    assert (error.status, error.type) == (503, "backend_down")
    assert error.retry_after
