"""Which backend answers for the user folder."""

from __future__ import annotations

import pytest

from comfygate.backend.fleet import Fleet
from comfygate.backend.writer import UserWriter
from comfygate.errors import GateError
from comfygate.model import BackendState
from tests.unit.fakes import FakeBackend


class House:
    """Some backends and the writer among them."""

    def __init__(self, *owned: bool) -> None:
        self.backends = [FakeBackend(n) for n in range(len(owned))]
        for backend, is_owned in zip(self.backends, owned, strict=True):
            backend.owned = is_owned
        self.writer = UserWriter(Fleet(self.backends))  # type: ignore[arg-type]

    @property
    def gpu_id(self) -> int:
        return self.writer.backend().gpu_id


def test_the_lowest_that_is_ready_and_ours() -> None:
    house = House(False, True, True)
    assert house.gpu_id == 1


def test_it_stays_when_a_lower_one_comes_back() -> None:
    house = House(True, True, True)
    assert house.gpu_id == 0
    house.backends[0].become(BackendState.DOWN)
    assert house.gpu_id == 1
    house.backends[0].become(BackendState.READY)
    assert house.gpu_id == 1
    house.backends[1].become(BackendState.STOPPING)
    assert house.gpu_id == 0


def test_one_that_was_gone_while_nobody_asked_goes_on() -> None:
    house = House(True, True)
    house.backends[0].become(BackendState.DOWN)
    assert house.gpu_id == 1
    house.backends[1].become(BackendState.DOWN)
    house.backends[1].become(BackendState.READY)
    house.backends[0].become(BackendState.READY)
    assert house.gpu_id == 1


def test_those_of_others_count_where_none_is_ours() -> None:
    assert House(False, False).gpu_id == 0


def test_if_none_is_ready_the_client_is_told_when_to_come_back() -> None:
    house = House(True, False)
    house.backends[0].become(BackendState.STARTING)
    with pytest.raises(GateError) as caught:
        house.writer.backend()
    assert (caught.value.status, caught.value.type, caught.value.retry_after) == (503, "backend_starting", 3.0)
