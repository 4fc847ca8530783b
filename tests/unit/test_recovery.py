"""What an earlier daemon left in the journal."""

from __future__ import annotations

from attrs import evolve

from comfygate.control.recovery import MOST_RUNS, recover
from comfygate.journal.records import Journalled
from comfygate.ledger import Ended
from comfygate.model import BackendState, Job, JobState
from comfygate.testing import job
from tests.unit.fakes import House, body, new_id
from tests.unit.test_control import now, queue_of, refused


def made(**facts: object) -> Job:
    one = job()
    submission = body(prompt_id=one.prompt_id, number=one.number)
    return evolve(one, **{"targets": frozenset({0, 1}), "expected": 0, "submission": submission, **facts})


def left(one: Job, state: JobState = JobState.WAITING, gpu_id: int | None = None) -> Journalled:
    return Journalled(one, state, gpu_id)


def test_jobs_wait_in_their_old_order_and_what_ran_is_tried_again() -> None:
    house = House(gpus=1)
    house.backends[0].become(BackendState.STARTING)
    runs, next_, waits = (made(targets=frozenset({0}), item=b'[0,"%d"]' % n) for n in range(3))
    found = recover(house.books, [left(waits), left(next_, JobState.PENDING, 0), left(runs, JobState.RUNNING, 0)], ())
    assert (found.waiting, found.looked_up, found.stranded) == (3, 0, ())
    assert queue_of(house, house.gates[0]) == ([], ["0", "1", "2"])
    assert house.ledger.waiting.get(runs.prompt_id).attempts == 1
    assert house.ledger.waiting.get(next_.prompt_id).attempts == 0
    assert house.ledger.waiting.get(runs.prompt_id).deaths == 0
    house.backends[0].become(BackendState.READY)
    house.turn()
    assert house.backends[0].client.submitted == [runs.prompt_id, next_.prompt_id]


def test_one_that_ran_at_the_end_of_too_many_daemons_fails() -> None:
    house = House(gpus=1)
    last, next_ = (made(targets=frozenset({0}), attempts=MOST_RUNS - n) for n in (1, 2))
    found = recover(house.books, [left(last, JobState.RUNNING, 0), left(next_, JobState.RUNNING, 0)], ())
    assert (found.waiting, found.given_up) == (1, 1)
    end = house.ledger.ended(last.prompt_id)
    assert end is not None
    assert (end.state, end.gpu_id) == (JobState.FAILED, 0)
    assert end.reason == f"it was begun {MOST_RUNS} times, and ComfyGate ended each time before it did"
    assert next_.prompt_id in house.ledger.waiting


def test_what_a_comfyui_of_someone_else_may_have_is_looked_for_there() -> None:
    house = House()
    house.backends[1].owned = False
    there, ended, lost = made(), made(), made()
    client = house.backends[1].client
    client.items.append([0, there.prompt_id, {}, {}, []])
    client.done[ended.prompt_id] = {"status": {"status_str": "success", "messages": []}}
    found = recover(house.books, [left(one, JobState.SENT, 1) for one in (there, ended, lost)], ())
    assert found.looked_up == 3
    house.backends[1].tell()
    house.turn()
    held = house.ledger.held(there.prompt_id)
    assert held is not None
    assert (held.gpu_id, held.state) == (1, JobState.RUNNING)
    over = house.ledger.ended(ended.prompt_id)
    assert over is not None
    assert over.state is JobState.DONE
    submitted = house.backends[0].client.submitted + client.submitted
    assert submitted == [lost.prompt_id]


def test_jobs_of_ports_that_are_gone_have_an_heir_and_those_of_gpus_that_are_gone_are_kept() -> None:
    house = House()
    for backend in house.backends:
        backend.become(BackendState.DOWN)
    moved = made(gate="gone", targets=frozenset({1, 7}), expected=7)
    stranded = made(gate="gpu-7", targets=frozenset({7}), expected=7)
    found = recover(house.books, [left(moved), left(stranded)], ())
    assert found.stranded == (stranded,)
    waits = house.ledger.waiting.get(moved.prompt_id)
    assert (waits.gate, waits.targets, waits.expected) == ("gpu-1", frozenset({1}), 1)


def test_an_id_that_ended_before_the_start_is_not_used_again() -> None:
    house = House()
    prompt_id = new_id()
    recover(house.books, (), [(prompt_id, Ended(0, JobState.DONE))])
    assert refused(house, house.hub, prompt_id=prompt_id).type == "duplicate_prompt_id"


def test_a_prompt_whose_gpus_are_gone_is_listed_nowhere_but_can_be_moved_and_keeps_its_id() -> None:
    house = House()
    waits, ran = (made(gate="gpu-7", targets=frozenset({7}), expected=7) for _ in range(2))
    recover(house.books, [left(waits), left(ran, JobState.RUNNING, 7)], ())
    for one in (waits, ran):
        assert refused(house, house.hub, prompt_id=one.prompt_id).type == "duplicate_prompt_id"
    house.turn()
    assert queue_of(house, house.hub) == ([], [])
    now(house.operations.move(waits.prompt_id, "gpu-1", front=False))
    house.turn()
    assert house.backends[1].client.submitted == [waits.prompt_id]


def test_an_id_that_was_written_twice_is_run_once() -> None:
    house = House(gpus=1)
    old = made(targets=frozenset({0}))
    new = evolve(old, sequence=old.sequence + 1000)
    assert recover(house.books, [left(new), left(old)], ()).waiting == 1
    house.books.changed()
    house.turn()
    assert house.backends[0].client.submitted == [old.prompt_id]
    house.finish(0)
    assert house.backends[0].client.submitted == [old.prompt_id]


def test_what_only_waited_in_someone_elses_comfyui_is_not_blamed_for_its_end() -> None:
    house = House(gpus=1)
    house.backends[0].owned = False
    house.books.retries = 0
    first, second = (made(targets=frozenset({0})) for _ in range(2))
    recover(house.books, [left(first, JobState.PENDING, 0), left(second, JobState.PENDING, 0)], ())
    house.backends[0].become(BackendState.STARTING)
    house.backends[0].become(BackendState.READY)
    house.turn()
    assert house.ledger.ended(second.prompt_id) is None
    assert house.backends[0].client.submitted[-1] == second.prompt_id
