"""The control plane's decisions, over fake backends and a clock that stands still."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import orjson
import pytest
from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from comfygate.control.dispatch import Dispatcher
from comfygate.errors import BackendUnclear, BackendUnreachable, BackendUnusable, GateError
from comfygate.model import BackendState, JobState, RestartCause
from comfygate.routing.assignment import GateRouting
from comfygate.testing import job
from tests.unit.fakes import FakeAnswer, FakeClient, House, body, new_id, raising


def now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of something that need not wait."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    assert results, "it waits"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def later(coroutine: Coroutine[Any, Any, Any]) -> tuple[Deferred[Any], list[Any]]:
    """Something that waits, and where its result will be."""
    results: list[Any] = []
    waiting = Deferred.fromCoroutine(coroutine)
    waiting.addBoth(results.append)
    assert not results, "it does not wait"
    return waiting, results


def submit(house: House, gate: GateRouting, pin: str | None = None, **fields: Any) -> dict[str, Any]:
    told = accept(house, gate, pin, **fields)
    house.turn()
    return told


def accept(house: House, gate: GateRouting, pin: str | None = None, **fields: Any) -> dict[str, Any]:
    """Submit a prompt, and stop before it is handed over."""
    answer = now(house.acceptance.submit(gate, body(**fields), pin))
    assert answer.status == 200
    told: dict[str, Any] = orjson.loads(answer.body)
    return told


def refused(house: House, gate: GateRouting, pin: str | None = None, **fields: Any) -> GateError:
    with pytest.raises(GateError) as caught:
        now(house.acceptance.submit(gate, body(**fields), pin))
    return caught.value


def queue_of(house: House, gate: GateRouting) -> tuple[list[str], list[str]]:
    listed = orjson.loads(b"".join(house.listings.queue(gate)))
    return [item[1] for item in listed["queue_running"]], [item[1] for item in listed["queue_pending"]]


def test_a_gpu_gets_prefetch_jobs_and_the_rest_wait_with_us() -> None:
    house = House()
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(5)]
    assert house.backends[0].client.submitted == ids[:2]
    assert house.backends[1].client.submitted == []
    house.backends[0].tell()
    house.turn()
    assert queue_of(house, house.gates[0]) == (ids[:1], ids[1:])
    assert house.finish(0) == ids[0]
    assert house.backends[0].client.submitted == ids[:3]
    assert queue_of(house, house.gates[0]) == (ids[1:2], ids[2:])


def test_the_answer_is_comfyuis_and_the_gpu_id() -> None:
    house = House()
    prompt_id = new_id()
    told = submit(house, house.gates[1], prompt_id=prompt_id, client_id="c")
    assert told == {"prompt_id": prompt_id, "number": 0, "node_errors": {}, "gpu_id": 1}
    assert submit(house, house.gates[1])["number"] == 1
    assert submit(house, house.gates[1], front=True)["number"] == -2
    assert submit(house, house.gates[1], number=2.5)["number"] == 2.5


def test_front_runs_next_though_a_job_was_handed_over_already() -> None:
    house = House()
    first, second, third = (submit(house, house.gates[0])["prompt_id"] for _ in range(3))
    front = submit(house, house.gates[0], front=True)["prompt_id"]
    order = [house.finish(0) for _ in range(4)]
    assert order == [first, front, second, third]


def test_hub_jobs_are_spread_and_bound_late() -> None:
    house = House()
    told = [submit(house, house.hub)["gpu_id"] for _ in range(8)]
    assert sorted(told) == [0] * 4 + [1] * 4
    assert [len(backend.client.submitted) for backend in house.backends] == [2, 2]
    for _ in range(4):
        house.finish(1)
    assert len(house.backends[1].client.submitted) == 6
    assert len(house.backends[0].client.submitted) == 2


def test_prompts_that_are_validated_at_the_same_time_are_spread_all_the_same() -> None:
    house = House()
    for backend in house.backends:
        backend.client.pause = Deferred()
    results = [later(house.acceptance.submit(house.hub, body(), None))[1] for _ in range(4)]
    for backend in house.backends:
        pause, backend.client.pause = backend.client.pause, None
        assert pause is not None
        pause.callback(None)
    assert sorted(orjson.loads(result[0].body)["gpu_id"] for result in results) == [0, 0, 1, 1]


def test_a_prompt_is_accepted_though_every_backend_goes_down_once_it_is_validated() -> None:
    house = House(gpus=1)
    house.backends[0].client.pause = pause = Deferred()
    _, results = later(house.acceptance.submit(house.gates[0], body(), None))
    house.backends[0].become(BackendState.DOWN)
    pause.callback(None)
    assert results[0].status == 200
    assert house.ledger.remaining(0) == 1


def test_another_gpu_validates_where_the_expected_one_is_unreachable() -> None:
    house = House()
    house.backends[0].client.before["validate"] = raising(BackendUnreachable("refused"))
    assert submit(house, house.hub)["gpu_id"] in (0, 1)
    # All backends of our own run the same ComfyUI.
    assert submit(house, house.gates[0])["gpu_id"] == 0
    assert house.backends[1].client.asked.count("validate") == 2


def test_a_target_pins_and_a_wrong_one_is_refused() -> None:
    house = House()
    assert {submit(house, house.hub, pin="1")["gpu_id"] for _ in range(3)} == {1}
    for pin in ("2", "-1", "x", "", "١", "1" * 5000):
        error = refused(house, house.hub, pin=pin)
        assert (error.status, error.type) == (400, "invalid_target")
    assert refused(house, house.gates[0], pin="1").status == 400


def test_an_id_is_used_once_on_all_gpus() -> None:
    house = House()
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    assert refused(house, house.gates[1], prompt_id=prompt_id).type == "duplicate_prompt_id"
    house.finish(0)
    assert refused(house, house.hub, prompt_id=prompt_id).type == "duplicate_prompt_id"


def test_comfyuis_own_refusal_is_passed_on_and_nothing_is_queued() -> None:
    house = House()
    house.backends[0].client.validation = FakeAnswer(400, b'{"error": {"type": "prompt_no_outputs"}}')
    answer = now(house.acceptance.submit(house.gates[0], body(), None))
    assert (answer.status, answer.body) == (400, b'{"error": {"type": "prompt_no_outputs"}}')
    assert house.ledger.remaining(0) == 0


def test_a_prompt_that_breaks_the_validation_is_a_bad_prompt() -> None:
    house = House()
    house.backends[0].client.validation = FakeAnswer(500, b"500 Internal Server Error")
    error = refused(house, house.gates[0])
    assert (error.status, error.type) == (400, "invalid_prompt")


def test_a_gpu_that_is_down_answers_503_and_says_when_to_come_back() -> None:
    house = House(queue_when_down=False)
    house.backends[0].become(BackendState.DOWN)
    error = refused(house, house.gates[0])
    assert (error.status, error.type, error.retry_after) == (503, "backend_down", 3.0)
    assert submit(house, house.hub)["gpu_id"] == 1
    house.backends[0].become(BackendState.STARTING)
    assert refused(house, house.gates[0]).type == "backend_starting"
    assert queue_of(house, house.gates[0]) == ([], [])


def test_a_full_queue_refuses() -> None:
    house = House(max_pending=3)
    for _ in range(5):
        submit(house, house.gates[0])
    error = refused(house, house.gates[0])
    assert (error.status, error.type) == (503, "queue_full")
    house.finish(0)
    submit(house, house.gates[0])


def test_a_queue_that_comfyui_itself_holds_is_bounded_too() -> None:
    house = House(gpus=1, max_pending=3)
    house.backends[0].has_companion = False
    for _ in range(3):
        submit(house, house.gates[0])
    assert refused(house, house.gates[0]).type == "queue_full"
    assert len(house.backends[0].client.submitted) == 3
    house.finish(0)
    submit(house, house.gates[0])


def test_jobs_of_a_dead_backend_wait_again_in_their_old_order() -> None:
    house = House(gpus=1)
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(4)]
    house.backends[0].tell()
    house.turn()
    house.backends[0].become(BackendState.DOWN)
    house.turn()
    assert house.ledger.remaining(0) == 4
    house.backends[0].become(BackendState.READY)
    house.turn()
    assert house.backends[0].client.submitted == ids[:2]


def test_a_job_that_two_backends_died_of_is_not_tried_again() -> None:
    house = House(gpus=1)
    poison, other = (submit(house, house.gates[0])["prompt_id"] for _ in range(2))
    for _ in range(2):
        house.backends[0].tell()
        house.turn()
        house.backends[0].become(BackendState.DOWN)
        house.backends[0].become(BackendState.READY)
        house.turn()
    ended = house.ledger.ended(poison)
    assert ended is not None
    assert ended.state is JobState.FAILED
    assert house.backends[0].client.submitted == [other]


def test_a_job_that_ends_its_backend_before_that_says_a_word_is_not_tried_for_ever() -> None:
    house = House(gpus=1)
    house.backends[0].client.deaf = True
    poison, other = (submit(house, house.gates[0])["prompt_id"] for _ in range(2))
    for _ in range(2):
        house.backends[0].become(BackendState.DOWN)
        house.backends[0].become(BackendState.READY)
        house.turn()
    ended = house.ledger.ended(poison)
    assert ended is not None
    assert ended.state is JobState.FAILED
    assert house.backends[0].client.submitted == [other]


def test_a_job_is_not_blamed_for_the_death_of_a_backend_that_ran_another() -> None:
    house = House(gpus=1)
    house.backends[0].client.items.append([-1, new_id(), {}, {}, []])
    house.backends[0].tell()
    house.turn()
    first = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].become(BackendState.DOWN)
    assert house.ledger.waiting.get(first).attempts == 0


def test_a_job_that_clients_saw_end_does_not_run_again() -> None:
    house = House(gpus=1)
    over, next_ = (submit(house, house.gates[0])["prompt_id"] for _ in range(2))
    house.backends[0].tell()
    house.turn()
    house.ledger.finish(over)
    house.backends[0].become(BackendState.DOWN)
    house.backends[0].become(BackendState.READY)
    house.turn()
    ended = house.ledger.ended(over)
    assert ended is not None
    assert ended.state is JobState.UNKNOWN
    assert house.backends[0].client.submitted == [next_]


def test_an_unclear_answer_is_looked_up_and_not_sent_again() -> None:
    house = House(gpus=1)
    house.backends[0].client.fault, house.backends[0].client.queues_anyway = BackendUnclear("cut"), True
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    assert house.backends[0].client.submitted == [prompt_id]
    held = house.ledger.held(prompt_id)
    assert held is not None
    assert held.state is JobState.RUNNING


def test_500_for_a_job_that_was_queued_all_the_same() -> None:
    house = House(gpus=1)
    house.backends[0].client.answer, house.backends[0].client.queues_anyway = FakeAnswer(500, b""), True
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    assert house.backends[0].client.submitted == [prompt_id]
    assert house.finish(0) == prompt_id


def test_an_unclear_answer_for_a_job_that_never_arrived_is_tried_once_more() -> None:
    house = House(gpus=1)
    house.backends[0].client.fault = BackendUnclear("cut")
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    assert house.backends[0].client.submitted == [prompt_id, prompt_id]
    assert house.finish(0) == prompt_id


def test_an_unreachable_backend_keeps_the_job_waiting() -> None:
    house = House(gpus=1)
    house.backends[0].client.fault = BackendUnreachable("refused")
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    assert prompt_id in house.ledger.waiting
    house.clock.advance(1.1)
    house.turn()
    assert house.finish(0) == prompt_id


def test_without_a_companion_comfyuis_own_queue_holds_the_job() -> None:
    house = House(gpus=1)
    house.backends[0].has_companion = False
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(5)]
    assert house.backends[0].client.submitted == ids
    house.backends[0].client.answer = FakeAnswer(400, b'{"error": {}}')
    answer = now(house.acceptance.submit(house.gates[0], body(), None))
    assert (answer.status, answer.body) == (400, b'{"error": {}}')
    assert house.ledger.remaining(0) == 5
    house.backends[0].client.fault = BackendUnclear("cut")
    assert refused(house, house.gates[0]).status == 502
    house.turn()
    assert house.ledger.remaining(0) == 5


def at_once(house: House) -> tuple[Deferred[Any], list[Any], Deferred[None]]:
    """A prompt on its way to a backend without a companion; what comes of it; what it waits for."""
    house.backends[0].has_companion = False
    house.backends[0].client.pause = pause = Deferred()
    return (*later(house.acceptance.submit(house.gates[0], body(), None)), pause)


def test_a_client_that_leaves_before_comfyui_has_answered_leaves_no_job_behind() -> None:
    house = House(gpus=1)
    submitting, results, pause = at_once(house)
    submitting.cancel()
    pause.callback(None)
    house.turn()
    assert isinstance(results[0].value, CancelledError)
    assert house.ledger.remaining(0) == 0


@pytest.mark.parametrize("fault", [BackendUnclear("cut"), BackendUnreachable("refused")])
def test_a_backend_that_dies_over_a_prompt_keeps_the_books_straight(fault: Exception) -> None:
    house = House(gpus=1)
    client = house.backends[0].client
    client.fault = fault
    _, results, pause = at_once(house)
    house.backends[0].become(BackendState.DOWN)
    pause.callback(None)
    assert results[0].value.status == 502
    assert house.ledger.remaining(0) == 1
    house.backends[0].become(BackendState.READY)
    house.turn()
    assert house.ledger.remaining(0) == 1
    assert len(house.backends[0].client.submitted) == 1


def test_a_comfyui_that_someone_else_restarts_gets_its_jobs_again() -> None:
    house = House(gpus=1)
    house.backends[0].owned = False
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(3)]
    house.backends[0].tell()
    house.backends[0].become(BackendState.DOWN)
    house.turn()
    assert house.ledger.remaining(0) == 3
    house.backends[0].become(BackendState.READY)
    house.turn()
    assert house.backends[0].client.submitted == ids[:2]
    assert [house.finish(0) for _ in range(3)] == ids


def test_a_comfyui_of_someone_else_that_was_only_out_of_reach_keeps_its_jobs() -> None:
    house = House(gpus=1)
    house.backends[0].owned = False
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(2)]
    client = house.backends[0].client
    house.backends[0].become(BackendState.DOWN)
    house.backends[0].client = client
    house.backends[0].become(BackendState.READY)
    house.turn()
    assert client.submitted == ids
    client.items.pop()  # removed by someone who asked ComfyUI itself
    house.backends[0].tell()
    house.turn()
    assert client.submitted == ids
    assert house.ledger.remaining(0) == 1


def test_a_history_that_cannot_be_read_keeps_no_job() -> None:
    house = House(gpus=1)
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(3)]
    house.backends[0].tell()
    house.turn()
    house.backends[0].client.before["history"] = raising(BackendUnusable("status 500"))
    house.finish(0)
    del house.backends[0].client.before["history"]
    assert [house.finish(0) for _ in range(2)] == ids[1:]
    assert house.ledger.remaining(0) == 0
    ended = house.ledger.ended(ids[0])
    assert ended is not None
    assert ended.state is JobState.UNKNOWN


def test_a_late_answer_of_a_dead_backend_says_nothing_of_the_job_sent_again() -> None:
    house = House(gpus=1)
    prompt_id = accept(house, house.gates[0])["prompt_id"]
    dead = house.backends[0].client
    dead.pause, dead.fault = Deferred(), BackendUnclear("cut")
    house.turn()
    house.backends[0].become(BackendState.DOWN)
    alive = FakeClient(pause=Deferred())
    house.backends[0].client = alive
    house.backends[0].become(BackendState.READY)
    house.turn()
    dead.pause.callback(None)
    house.turn()
    held = house.ledger.held(prompt_id)
    assert held is not None
    assert held.state is JobState.SENT
    assert alive.pause is not None
    alive.pause.callback(None)
    assert house.finish(0) == prompt_id


def test_whoever_fails_over_a_change_keeps_no_job_from_being_handed_over() -> None:
    house = House(gpus=1)
    del house.books._watchers[:]
    house.books.watch(raising(RuntimeError("a mistake of ours")))
    house.dispatcher = Dispatcher(house.books, house.reconciler, house.journal)
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    assert house.backends[0].client.submitted == [prompt_id]


def test_a_gpu_that_is_not_heard_yet_gets_no_job() -> None:
    house = House(gpus=1)
    heard = False
    del house.books._watchers[:]
    house.dispatcher = Dispatcher(house.books, house.reconciler, house.journal, lambda gpu_id: heard)
    accept(house, house.gates[0])
    house.turn()
    assert house.backends[0].client.submitted == []
    heard = True
    house.books.changed()
    house.turn()
    assert len(house.backends[0].client.submitted) == 1


def test_jobs_reach_a_gpu_in_their_order_though_it_has_room_for_both() -> None:
    house = House(gpus=1)
    ids = [accept(house, house.gates[0])["prompt_id"] for _ in range(2)]
    first = house.backends[0].client
    first.pause = Deferred()
    house.turn()
    assert first.asked.count("submit") == 1
    house.backends[0].become(BackendState.DOWN)
    first.pause.callback(None)
    house.turn()
    assert first.submitted == ids[:1]
    house.backends[0].become(BackendState.READY)
    house.turn()
    assert house.backends[0].client.submitted == ids


def test_a_job_goes_elsewhere_at_once_where_its_gpu_is_unreachable() -> None:
    house = House()
    prompt_id = accept(house, house.hub)["prompt_id"]
    client = house.backends[0].client
    client.pause, client.fault = Deferred(), BackendUnreachable("refused")
    house.turn()
    client.pause.callback(None)
    house.turn()
    assert house.backends[1].client.submitted == [prompt_id]


def test_an_interrupt_takes_a_waiting_job_out_and_touches_nothing_else() -> None:
    house = House(gpus=1)
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(4)]
    found = now(house.interrupts.prompt(ids[3]))
    assert (found.gpu_id, found.state) == (0, "pending")
    found = now(house.interrupts.prompt(ids[1]))
    assert (found.gpu_id, found.state) == (0, "pending")
    assert house.backends[0].client.interrupted == []
    house.turn()
    assert queue_of(house, house.gates[0]) == ([ids[0]], [ids[2]])


def test_an_interrupt_reaches_the_gpu_that_runs_the_job_and_no_other() -> None:
    house = House()
    first, second = submit(house, house.hub)["prompt_id"], submit(house, house.hub)["prompt_id"]
    found = now(house.interrupts.prompt(second))
    assert (found.gpu_id, found.state) == (1, "running")
    assert [backend.client.interrupted for backend in house.backends] == [[], [second]]
    house.finish(1, "error", "execution_interrupted")
    ended = house.ledger.ended(second)
    assert ended is not None
    assert ended.state is JobState.CANCELLED
    assert now(house.interrupts.prompt(second)).state == "unknown"
    assert now(house.interrupts.prompt(new_id())).state == "unknown"
    assert now(house.interrupts.prompt(first)).state == "running"


def test_a_stranger_is_found_wherever_it_runs() -> None:
    house = House()
    stranger = new_id()
    house.backends[1].client.items.append([5, stranger, {}, {}, []])
    house.backends[1].tell()
    house.turn()
    assert queue_of(house, house.gates[1]) == ([stranger], [])
    found = now(house.interrupts.prompt(stranger))
    assert (found.gpu_id, found.state) == (1, "running")
    assert house.backends[0].client.interrupted == []


def test_a_job_that_we_took_out_ourselves_was_cancelled_whoever_sees_first_that_it_is_gone() -> None:
    house = House(gpus=1)
    submit(house, house.hub)
    second = submit(house, house.hub)["prompt_id"]
    backend = house.backends[0]
    backend.tell()
    house.turn()
    # The backend says that its queue changed before the interrupt has asked it once more.
    backend.client.after["delete"] = backend.tell
    assert now(house.interrupts.prompt(second)).state == "pending"
    ended = house.ledger.ended(second)
    assert ended is not None
    assert ended.state is JobState.CANCELLED


def test_clear_and_delete_touch_pending_jobs_of_the_gate_only() -> None:
    house = House()
    mine = [submit(house, house.gates[0])["prompt_id"] for _ in range(4)]
    other = [submit(house, house.gates[1])["prompt_id"] for _ in range(4)]
    now(house.interrupts.remove_pending(house.gates[0], [mine[2], other[3], "nope", mine[0]]))
    house.turn()
    assert queue_of(house, house.gates[0]) == ([mine[0]], [mine[1], mine[3]])
    now(house.interrupts.remove_pending(house.gates[0], None))
    house.turn()
    assert queue_of(house, house.gates[0]) == ([mine[0]], [])
    assert queue_of(house, house.gates[1]) == ([other[0]], other[1:])
    now(house.interrupts.remove_pending(house.hub, None))
    house.turn()
    assert queue_of(house, house.hub) == ([mine[0], other[0]], [])


def test_when_a_gpu_is_given_up_the_hubs_jobs_run_elsewhere_and_its_own_wait() -> None:
    house = House()
    own = [submit(house, house.gates[0])["prompt_id"] for _ in range(3)]
    hubs = [submit(house, house.hub)["prompt_id"] for _ in range(6)]
    house.backends[0].become(BackendState.FAILED)
    house.turn()
    assert [house.finish(1) for _ in hubs] == hubs
    assert house.backends[1].client.items == []
    assert (house.ledger.remaining(0), house.ledger.remaining(1)) == (3, 0)
    assert [now(house.interrupts.prompt(prompt_id)).state for prompt_id in own] == ["pending"] * 3
    assert (house.ledger.remaining(0), len(house.ledger.waiting)) == (0, 0)


def test_clear_waits_for_a_job_that_is_on_its_way() -> None:
    house = House(gpus=1)
    first = submit(house, house.gates[0])["prompt_id"]
    second = accept(house, house.gates[0])["prompt_id"]
    house.backends[0].client.pause = pause = Deferred()
    house.turn()
    _, cleared = later(house.interrupts.remove_pending(house.gates[0], None))
    pause.callback(None)
    house.clock.advance(1)
    house.turn()
    assert cleared == [None]
    assert queue_of(house, house.gates[0]) == ([first], [])
    ended = house.ledger.ended(second)
    assert ended is not None
    assert ended.state is JobState.CANCELLED


def test_a_port_removes_what_it_lists() -> None:
    house = House()
    ids = [submit(house, house.hub)["prompt_id"] for _ in range(10)]
    _, listed = queue_of(house, house.gates[0])
    now(house.interrupts.remove_pending(house.gates[0], None))
    house.turn()
    running, pending = queue_of(house, house.hub)
    assert len(listed) == 4
    assert {*running, *pending} == {*ids} - {*listed}


def test_an_interrupt_whose_backend_dies_finds_the_job_where_it_waits_again() -> None:
    house = House(gpus=1)
    prompt_id = submit(house, house.gates[0])["prompt_id"]

    def die() -> None:
        house.backends[0].become(BackendState.DOWN)
        raise BackendUnreachable("refused")

    house.backends[0].client.before["queue"] = die
    found = now(house.interrupts.prompt(prompt_id))
    assert (found.gpu_id, found.state) == (0, "pending")
    assert house.ledger.remaining(0) == 0


def test_an_interrupt_that_does_not_reach_its_job_says_so() -> None:
    house = House(gpus=1)
    house.backends[0].owned = False
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].client.deaf = True
    with pytest.raises(GateError, match="504"):
        now(house.interrupts.prompt(prompt_id))
    assert now(house.interrupts.prompt(new_id())).state == "unknown"
    house.backends[0].become(BackendState.DOWN)
    with pytest.raises(GateError, match="503"):
        now(house.interrupts.prompt(prompt_id))


def test_a_gpu_that_hangs_does_not_delay_the_interrupts_of_the_others() -> None:
    house = House()
    for gate in house.gates:
        submit(house, gate)
    house.backends[0].client.pause = Deferred()
    _, interrupting = later(house.interrupts.running(house.hub))
    assert house.backends[1].client.interrupted == [None]
    _, clearing = later(house.interrupts.remove_pending(house.hub, None))
    house.backends[0].client.pause.callback(None)
    house.turn()
    assert (interrupting, clearing) == ([None], [None])


def test_interrupting_by_client_stops_what_runs_for_that_client() -> None:
    house = House()
    mine, other = submit(house, house.hub, client_id="me")["prompt_id"], submit(house, house.hub, client_id="you")
    house.backends[0].tell()
    house.backends[1].tell()
    house.turn()
    now(house.interrupts.client(house.hub, "me"))
    assert [backend.client.interrupted for backend in house.backends] == [[mine], []]
    now(house.interrupts.running(house.hub))
    assert [backend.client.interrupted for backend in house.backends] == [[mine, None], [None]]
    assert other["gpu_id"] == 1


def test_queue_all_sums_up_and_lists_the_gpu_that_is_down() -> None:
    house = House()
    for gate in (house.gates[0], house.gates[0], house.gates[0], house.gates[1]):
        submit(house, gate)
    house.backends[1].become(BackendState.DOWN)
    house.turn()
    listed = orjson.loads(b"".join(house.listings.all()))
    assert [(one["gpu_id"], one["running_count"], one["pending_count"]) for one in listed["queues"]] == [
        (0, 1, 2),
        (1, 0, 1),
    ]
    assert [one["state"] for one in listed["queues"]] == ["ready", "down"]
    assert (listed["total_running"], listed["total_pending"]) == (1, 3)


def test_a_prompt_whose_last_event_was_seen_is_asked_about_until_its_end_is_known() -> None:
    house = House(gpus=1)
    prompt_id = submit(house, house.hub)["prompt_id"]
    house.backends[0].client.finish()
    house.ledger.finish(prompt_id)
    house.backends[0].client.deaf = True
    house.backends[0].tell()
    house.turn()
    house.backends[0].client.deaf = False
    house.clock.advance(5.0)
    house.turn()
    ended = house.ledger.ended(prompt_id)
    assert ended is not None
    assert ended.state is JobState.DONE


def test_a_prompt_that_its_client_had_dropped_from_the_history_at_once_ended_as_it_was_told() -> None:
    house = House(gpus=1)
    over = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].tell()
    house.turn()
    event = {"type": "execution_success", "data": {"prompt_id": over}}
    house.books.last_words.hear(b"execution_success", orjson.dumps(event))
    house.ledger.finish(over)
    house.backends[0].client.finish()
    house.backends[0].client.done.clear()
    house.backends[0].tell()
    house.turn()
    ended = house.ledger.ended(over)
    assert ended is not None
    assert ended.state is JobState.DONE


def test_a_job_that_an_operators_restart_cuts_off_is_tried_again_though_fewer_retries_are_allowed_by_now() -> None:
    house = House(gpus=1)
    one = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].tell()
    house.turn()
    house.backends[0].become(BackendState.DOWN)
    house.books.retries = 0
    house.backends[0].become(BackendState.READY)
    house.turn()
    house.backends[0].cause = RestartCause.REQUESTED
    house.backends[0].become(BackendState.DOWN)
    assert house.ledger.waiting.get(one).deaths == 1


def test_an_interrupt_does_not_call_a_job_unknown_that_is_still_on_its_way() -> None:
    house = House(gpus=1)
    house.backends[0].owned = False
    prompt_id = accept(house, house.gates[0])["prompt_id"]
    house.journal.pause = pause = Deferred()
    house.turn()
    _, results = later(house.interrupts.prompt(prompt_id))
    for _ in range(510):
        house.clock.advance(0.02)
    assert (results[0].value.status, results[0].value.type) == (503, "prompt_on_its_way")
    pause.callback(None)


def test_nothing_is_remembered_of_what_is_over() -> None:
    house = House(gpus=1)
    one = submit(house, house.gates[0])["prompt_id"]
    house.books.unwanted.add(one)
    event = {"type": "execution_success", "data": {"prompt_id": one}}
    house.books.last_words.hear(b"execution_success", orjson.dumps(event))
    house.ledger.end(one, JobState.CANCELLED)
    assert house.books.unwanted == set()
    assert house.books.last_words.entry(evolve(job(), prompt_id=one, item=b"[]")) is None
