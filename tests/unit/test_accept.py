"""Accepting prompts: what is written down before anyone is told, and what may wait for a GPU that is down."""

from __future__ import annotations

import orjson
import pytest
from twisted.internet.defer import Deferred

from comfygate.errors import GateError, JournalError
from comfygate.model import BackendState, JobState
from tests.unit.fakes import House, body, new_id
from tests.unit.test_control import later, now, queue_of, refused, submit


def test_a_prompt_is_on_disk_before_it_is_answered_or_sent() -> None:
    house = House(gpus=1)
    house.journal.pause = pause = Deferred()
    _, results = later(house.acceptance.submit(house.hub, body(), None))
    house.turn()
    assert house.backends[0].client.submitted == []
    assert len(house.ledger.waiting) == 0
    pause.callback(None)
    assert results[0].status == 200
    house.turn()
    assert house.backends[0].client.submitted == [house.journal.accepted[0].prompt_id]


def test_what_cannot_be_written_is_not_accepted() -> None:
    house = House(gpus=1)
    house.journal.trouble = JournalError("no space left on the disk")
    prompt_id = new_id()
    error = refused(house, house.hub, prompt_id=prompt_id)
    assert (error.status, error.type, error.details) == (503, "journal_failed", "no space left on the disk")
    house.turn()
    assert house.backends[0].client.submitted == []
    house.journal.trouble = None
    assert submit(house, house.hub, prompt_id=prompt_id)["prompt_id"] == prompt_id


def test_a_client_that_leaves_while_its_prompt_is_written_has_queued_it() -> None:
    house = House(gpus=1)
    house.journal.pause = pause = Deferred()
    prompt_id = new_id()
    waiting, results = later(house.acceptance.submit(house.hub, body(prompt_id=prompt_id), None))
    waiting.cancel()
    assert results
    assert refused(house, house.hub, prompt_id=prompt_id).type == "duplicate_prompt_id"
    pause.callback(None)
    house.turn()
    assert house.backends[0].client.submitted == [prompt_id]


def test_prompts_that_are_being_written_count_as_waiting() -> None:
    house = House(gpus=1, max_pending=2)
    house.journal.pause = pause = Deferred()
    for _ in range(2):
        later(house.acceptance.submit(house.hub, body(), None))
    assert refused(house, house.hub).type == "queue_full"
    pause.callback(None)


def test_a_prompt_waits_for_a_gpu_that_is_down() -> None:
    house = House()
    house.backends[0].become(BackendState.DOWN)
    told = submit(house, house.gates[0])
    assert told["gpu_id"] == 0
    assert queue_of(house, house.gates[0]) == ([], [told["prompt_id"]])
    assert house.backends[1].client.asked == ["validate"]
    house.backends[0].become(BackendState.READY)
    house.turn()
    assert house.backends[0].client.submitted == [told["prompt_id"]]


def test_without_any_gpu_to_validate_it_a_prompt_is_judged_when_it_is_handed_over() -> None:
    house = House(gpus=1)
    house.backends[0].become(BackendState.STARTING)
    prompt_id = submit(house, house.hub)["prompt_id"]
    house.backends[0].become(BackendState.READY)
    said = {"error": {"message": "Prompt has no outputs", "details": ""}, "node_errors": {}}
    house.backends[0].client.answer = type(house.backends[0].client.validation)(400, orjson.dumps(said))
    house.turn()
    ended = house.ledger.ended(prompt_id)
    assert ended is not None
    assert (ended.state, ended.told) == (JobState.FAILED, False)
    assert ended.reason == "GPU 0 refused it: Prompt has no outputs"
    record = house.journal.ended[prompt_id][2]
    assert record is not None
    assert orjson.loads(record)["status"]["status_str"] == "error"


def test_a_prompt_does_not_wait_for_a_gpu_that_was_given_up() -> None:
    house = House()
    house.backends[0].become(BackendState.FAILED)
    assert refused(house, house.gates[0]).type == "backend_down"
    assert submit(house, house.hub)["gpu_id"] == 1


def test_nothing_is_accepted_while_the_daemon_stops() -> None:
    house = House()
    house.books.close(10.0)
    error = refused(house, house.hub)
    assert (error.status, error.type) == (503, "stopping")


def test_where_comfyui_is_someone_elses_it_is_on_disk_that_it_may_have_the_prompt() -> None:
    house = House(gpus=1)
    house.backends[0].owned = False
    house.backends[0].has_companion = False
    prompt_id = new_id()
    told = now(house.acceptance.submit(house.hub, body(prompt_id=prompt_id), None))
    assert told.status == 200
    assert house.journal.noted[:2] == [(prompt_id, JobState.WAITING, None), (prompt_id, JobState.SENT, 0)]
    assert house.journal.flushes == 1


def test_a_prompt_that_cannot_be_noted_as_sent_is_not_sent() -> None:
    house = House(gpus=1)
    house.backends[0].owned = False
    prompt_id = submit(house, house.hub)["prompt_id"]
    house.finish(0)
    house.journal.pause = None
    accepted = submit(house, house.hub)["prompt_id"]
    assert house.backends[0].client.submitted == [prompt_id, accepted]
    house.journal.trouble = JournalError("no space left")
    with pytest.raises(GateError, match="503"):
        now(house.acceptance.submit(house.hub, body(), None))
    assert house.backends[0].client.submitted == [prompt_id, accepted]


def test_numbers_go_on_after_those_of_an_earlier_daemon() -> None:
    house = House(gpus=1)
    house.acceptance.begin_after(41)
    told = submit(house, house.hub)
    assert told["number"] == 41
    assert house.journal.accepted[0].sequence == 42


def test_bytes_that_are_being_written_count_too() -> None:
    house = House(gpus=1)
    house.journal.pause = pause = Deferred()
    house.ledger.waiting.rebound(100, 1_500)
    later(house.acceptance.submit(house.hub, body(extra_data={"note": "x" * 500}), None))
    assert refused(house, house.hub, extra_data={"note": "x" * 500}).type == "queue_full"
    pause.callback(None)


def test_a_disk_that_does_not_answer_keeps_no_client_waiting_for_ever() -> None:
    house = House(gpus=1)
    house.journal.pause = pause = Deferred()
    prompt_id = new_id()
    _, results = later(house.acceptance.submit(house.hub, body(prompt_id=prompt_id), None))
    house.clock.advance(60)
    error = results[0].value
    assert (error.status, error.type) == (503, "journal_failed")
    house.journal.pause = None
    assert submit(house, house.hub, prompt_id=prompt_id)["prompt_id"] == prompt_id
    pause.callback(None)
    house.turn()
    assert house.backends[0].client.submitted == [prompt_id]
