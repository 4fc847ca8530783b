"""GET and POST /history, over fake backends and a journal in memory."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred

from comfygate.errors import BackendUnreachable, GateError
from comfygate.model import BackendState
from comfygate.routing.assignment import GateRouting
from tests.unit.fakes import House, new_id, raising
from tests.unit.test_control import later, now, queue_of, submit


def one(house: House, gate: GateRouting, prompt_id: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(b"".join(now(house.histories.one(gate, prompt_id))))
    return found


def listed(house: House, gate: GateRouting, most: int | None = None, offset: int | None = None) -> list[str]:
    return list(orjson.loads(b"".join(now(house.histories.newest(gate, most, offset)))))


def finished(house: House, gpu_id: int) -> str:
    prompt_id: str = submit(house, house.gates[gpu_id])["prompt_id"]
    assert house.finish(gpu_id) == prompt_id
    return prompt_id


def test_a_history_outlives_its_backend() -> None:
    house = House()
    prompt_id = finished(house, 0)
    house.backends[0].become(BackendState.DOWN)
    assert one(house, house.gates[0], prompt_id)[prompt_id]["status"]["status_str"] == "success"
    house.backends[0].become(BackendState.READY)
    assert list(one(house, house.hub, prompt_id)) == [prompt_id]
    assert listed(house, house.gates[0]) == [prompt_id]


def test_a_port_tells_of_its_own_gpu_alone() -> None:
    house = House()
    first, second = finished(house, 0), finished(house, 1)
    assert one(house, house.gates[0], second) == {}
    assert listed(house, house.gates[1]) == [second]
    assert sorted(listed(house, house.hub)) == sorted([first, second])
    assert one(house, house.hub, new_id()) == {}


def test_what_has_not_ended_has_no_history() -> None:
    house = House()
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(3)]
    assert [one(house, house.gates[0], prompt_id) for prompt_id in ids] == [{}, {}, {}]
    assert listed(house, house.gates[0]) == []


def test_a_prompt_is_in_the_history_as_soon_as_its_last_event_was_seen() -> None:
    house = House()
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].client.finish()
    house.ledger.finish(prompt_id)
    assert one(house, house.gates[0], prompt_id)[prompt_id]["status"]["status_str"] == "success"
    assert listed(house, house.gates[0]) == [prompt_id]


def test_one_whose_end_is_told_and_not_noted_yet_is_waited_for() -> None:
    house = House()
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    one(house, house.gates[0], prompt_id)  # its client looks now and then
    house.ledger.finish(prompt_id)
    assert queue_of(house, house.gates[0]) == ([], [])
    assert queue_of(house, house.hub) == ([], [])
    asked = (house.histories.one(house.hub, prompt_id), house.histories.newest(house.hub, None, None))
    told = [later(each)[1] for each in asked]
    house.clock.pump([0.01] * 3)
    house.backends[0].client.finish()
    house.clock.pump([0.01] * 3)
    assert [list(orjson.loads(b"".join(each[0]))) for each in told] == [[prompt_id], [prompt_id]]
    assert queue_of(house, house.gates[0]) == ([], [])


def test_the_newest_or_from_an_offset_on_as_comfyui_counts() -> None:
    house = House(gpus=1)
    ids = [finished(house, 0) for _ in range(5)]
    assert listed(house, house.hub, 2) == ids[3:]
    assert listed(house, house.hub, 2, 1) == ids[1:3]
    assert listed(house, house.hub, None, 3) == ids[3:]
    assert listed(house, house.hub, 2, -1) == ids[3:]
    assert listed(house, house.hub, 0) == []


def test_a_comfyui_of_someone_else_is_asked_for_what_it_ran_for_others() -> None:
    house = House()
    house.backends[1].owned = False
    house.backends[1].client.done["theirs"] = {"status": {"status_str": "success", "messages": []}}
    ours = finished(house, 1)
    assert sorted(listed(house, house.gates[1])) == sorted(["theirs", ours])
    assert list(one(house, house.gates[1], "theirs")) == ["theirs"]


def test_without_a_journal_comfyui_itself_is_asked() -> None:
    house = House(gpus=1)
    prompt_id = finished(house, 0)
    house.journal.ended.clear()
    house.journal.lasting = False
    assert listed(house, house.hub) == [prompt_id]
    assert list(one(house, house.hub, prompt_id)) == [prompt_id]


def test_what_is_deleted_does_not_come_back() -> None:
    house = House(gpus=1)
    first, second, third = (finished(house, 0) for _ in range(3))
    now(house.histories.forget(house.hub, [first]))
    assert listed(house, house.hub) == [second, third]
    assert one(house, house.hub, first) == {}
    now(house.histories.forget(house.hub, None))
    assert listed(house, house.hub) == []
    assert one(house, house.hub, third) == {}


def test_a_backend_that_cannot_be_asked_is_an_error_and_no_empty_answer() -> None:
    house = House(gpus=1)
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].client.before["history"] = raising(BackendUnreachable("refused"))
    with pytest.raises(GateError, match="502"):
        one(house, house.hub, prompt_id)


@pytest.mark.parametrize("noted", [True, False])
def test_one_that_ends_while_the_list_is_put_together_is_in_it(monkeypatch: pytest.MonkeyPatch, noted: bool) -> None:
    house = House(gpus=1)
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    reading: Deferred[list[tuple[str, float, bytes]]] = Deferred()
    monkeypatch.setattr(house.journal, "histories", lambda gpus, newest: reading)
    _, results = later(house.histories.newest(house.hub, None, None))
    if noted:
        assert house.finish(0) == prompt_id
    else:
        house.backends[0].client.finish()
        house.ledger.finish(prompt_id)
    assert queue_of(house, house.hub) == ([], [])  # whoever asks for both at once
    reading.callback([])
    assert list(orjson.loads(b"".join(results[0]))) == [prompt_id]


def test_a_negative_offset_asks_the_journal_for_no_more_than_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(gpus=1)
    ids = [finished(house, 0) for _ in range(3)]
    asked: list[int | None] = []
    histories = house.journal.histories
    monkeypatch.setattr(
        house.journal, "histories", lambda gpus, newest: asked.append(newest) or histories(gpus, newest)
    )
    assert listed(house, house.hub, 2, -1) == ids[1:]
    assert asked == [2]


def test_what_was_told_of_one_prompt_is_in_the_list_from_then_on() -> None:
    house = House()
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].client.finish()
    assert listed(house, house.hub) == []
    assert list(one(house, house.hub, prompt_id)) == [prompt_id]
    assert listed(house, house.hub) == [prompt_id]
    assert house.ledger.held(prompt_id) is None


def test_those_of_a_port_are_asked_at_the_same_time() -> None:
    house = House(gpus=3)
    house.backends[0].client.pause = Deferred()
    _, results = later(house.histories.one(house.hub, new_id()))
    assert [backend.client.asked.count("history") for backend in house.backends] == [1, 1, 1]
    house.backends[0].client.pause.callback(None)
    assert list(results[0]) == [b"{}"]
    house.backends[1].client.before["history"] = raising(BackendUnreachable("refused"))
    with pytest.raises(GateError) as caught:
        now(house.histories.one(house.hub, new_id()))
    assert caught.value.status == 502 and "GPU 1" in caught.value.message
