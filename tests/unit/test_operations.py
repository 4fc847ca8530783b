"""What an operator is told when something cannot be done, and what is done for him."""

from __future__ import annotations

import pytest

from comfygate.control.interrupt import Interrupted
from comfygate.errors import BackendUnclear, GateError
from comfygate.model import BackendState, JobState
from tests.unit.fakes import House, new_id, raising
from tests.unit.test_control import now, submit


def test_unknown_gpus_change_nothing() -> None:
    house = House()
    for refuse in (house.operations.drain, house.operations.undrain):
        with pytest.raises(GateError) as caught:
            refuse([1, 2])
        error = caught.value
        assert (error.status, error.type, error.details) == (404, "unknown_gpu", "Known are: 0, 1.")
    with pytest.raises(GateError):
        now(house.operations.recall(-1))
    assert house.books.draining == set()
    assert house.remembered == []


def test_a_prompt_is_cancelled_wherever_it_is() -> None:
    house = House(gpus=1)
    runs, pending, waits = (submit(house, house.gates[0])["prompt_id"] for _ in range(3))
    house.backends[0].tell()
    house.turn()
    assert now(house.operations.cancel(waits)) == Interrupted(waits, 0, "pending")
    assert now(house.operations.cancel(pending)) == Interrupted(pending, 0, "pending")
    assert now(house.operations.cancel(runs)) == Interrupted(runs, 0, "running")
    for prompt_id in (waits, pending):
        ended = house.ledger.ended(prompt_id)
        assert ended is not None
        assert ended.state is JobState.CANCELLED
    assert house.backends[0].client.interrupted == [runs]


def test_a_prompt_of_somebody_else_is_cancelled_too() -> None:
    house = House(gpus=1)
    stranger = new_id()
    house.backends[0].client.items.append([0, stranger, {}, {}, []])
    assert now(house.operations.cancel(stranger)) == Interrupted(stranger, 0, "running")


def test_what_has_ended_or_was_never_heard_of_cannot_be_cancelled() -> None:
    house = House(gpus=1)
    over = submit(house, house.gates[0])["prompt_id"]
    house.finish(0, "error")
    with pytest.raises(GateError) as caught:
        now(house.operations.cancel(over))
    assert (caught.value.status, caught.value.type) == (409, "prompt_ended")
    assert caught.value.message == "It has ended: failed"
    assert caught.value.extra_info == {"state": "failed", "gpu_id": 0}
    with pytest.raises(GateError) as caught:
        now(house.operations.cancel(new_id()))
    assert (caught.value.status, caught.value.type) == (404, "unknown_prompt")


def test_a_gpu_that_does_not_answer_is_no_success() -> None:
    house = House(gpus=1)
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].tell()
    house.turn()
    house.backends[0].client.before["queue"] = raising(BackendUnclear("no answer"))
    with pytest.raises(GateError) as caught:
        now(house.operations.cancel(prompt_id))
    assert caught.value.status == 504


def test_it_asks_no_backend_once_it_is_closed() -> None:
    house = House(gpus=1, prefetch=2)
    for _ in range(2):
        submit(house, house.gates[0])
    house.operations.drain([0])
    house.books.close(0)
    house.operations.close()
    house.turn()
    assert "delete" not in house.backends[0].client.asked
    assert house.backends[0].state is BackendState.READY
