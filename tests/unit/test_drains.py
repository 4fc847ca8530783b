"""A GPU that is drained gets nothing new, and keeps nothing that waits."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from comfygate.control.drains import Drains
from comfygate.control.recall import Recall
from comfygate.errors import BackendUnreachable
from comfygate.model import BackendState, JobState
from tests.unit.fakes import House, raising
from tests.unit.test_control import accept, queue_of, refused, submit


def drains(house: House, *drained: int) -> Drains:
    return Drains(house.books, Recall(house.books, house.reconciler), house.remembered.append, drained)


def test_what_runs_ends_there_and_what_waits_goes_elsewhere_or_stays_in_our_queue() -> None:
    house = House()
    runs = submit(house, house.gates[0])["prompt_id"]
    own = submit(house, house.gates[0])["prompt_id"]
    busy = [submit(house, house.gates[1])["prompt_id"] for _ in range(2)]
    for backend in house.backends:
        backend.tell()
    house.turn()
    house.operations.drain([0])
    house.turn()
    assert house.backends[0].client.items[0][1] == runs
    assert len(house.backends[0].client.items) == 1
    assert own in house.ledger.waiting
    hub = submit(house, house.hub)
    assert hub["gpu_id"] == 1
    assert [house.finish(1) for _ in range(3)] == [*busy, hub["prompt_id"]]
    assert house.finish(0) == runs
    assert house.backends[0].client.items == []
    assert queue_of(house, house.gates[0]) == ([], [own])
    house.operations.undrain([0])
    house.turn()
    assert house.finish(0) == own


def test_a_hub_job_that_waited_there_runs_elsewhere() -> None:
    house = House()
    ids = [submit(house, house.hub)["prompt_id"] for _ in range(4)]
    for backend in house.backends:
        backend.tell()
    house.turn()
    waits = house.backends[0].client.items[1][1]
    house.operations.drain([0])
    house.turn()
    ran = [house.finish(1) for _ in range(3)]
    assert waits in ran
    assert sorted([*ran, house.finish(0)]) == sorted(ids)


def test_its_own_port_accepts_prompts_and_lists_them() -> None:
    house = House()
    house.operations.drain([0])
    told = submit(house, house.gates[0])
    pinned = submit(house, house.hub, pin="0")
    assert (told["gpu_id"], pinned["gpu_id"]) == (0, 0)
    assert queue_of(house, house.gates[0]) == ([], [told["prompt_id"], pinned["prompt_id"]])
    assert house.backends[0].client.submitted == []
    assert {submit(house, house.hub)["gpu_id"] for _ in range(3)} == {1}
    house.operations.drain([1])
    assert submit(house, house.hub)["gpu_id"] in (0, 1)


def test_what_was_on_its_way_comes_back_too() -> None:
    house = House(gpus=1)
    runs = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].tell()
    house.turn()
    late = accept(house, house.gates[0])["prompt_id"]
    client = house.backends[0].client
    client.pause = pause = Deferred()
    house.turn()
    house.operations.drain([0])
    house.turn()
    client.pause = None
    pause.callback(None)
    house.turn()
    assert late in house.ledger.waiting
    assert [item[1] for item in client.items] == [runs]


def test_a_backend_that_does_not_answer_is_asked_again_now_and_then() -> None:
    house = House(gpus=1, prefetch=3)
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(3)]
    client = house.backends[0].client
    client.before["delete"] = raising(BackendUnreachable("refused"))
    house.operations.drain([0])
    for _ in range(4):
        house.backends[0].tell()
        house.turn()
    assert client.asked.count("delete") == 1
    del client.before["delete"]
    house.clock.advance(5.0)
    house.turn()
    assert [job.prompt_id for job in house.ledger.waiting.of_gate("gpu-0")] == ids[1:]


def test_a_backend_that_ignores_what_it_is_told_is_not_asked_all_the_time() -> None:
    house = House(gpus=1, prefetch=3)
    for _ in range(3):
        submit(house, house.gates[0])
    client = house.backends[0].client
    kept = client.items[1:]
    client.after["delete"] = lambda: client.items.extend(kept)
    house.operations.drain([0])
    for _ in range(10):
        house.turn()
    assert client.asked.count("delete") == 1


def test_what_the_operator_wants_is_remembered_and_a_restart_is_not() -> None:
    house = House(gpus=3)
    house.operations.drain([2, 0])
    house.operations.undrain([2])
    assert house.remembered == [frozenset({0, 2}), frozenset({0})]
    both = drains(house, 0)
    with both.held(0), both.held(1):
        assert house.books.draining == {0, 1}
    assert house.books.draining == {0}
    assert house.remembered == [frozenset({0, 2}), frozenset({0})]


def test_a_drain_that_ends_while_something_else_holds_it_ends_with_that() -> None:
    house = House()
    one = drains(house)
    one.begin([0])
    with one.held(0):
        one.end([0])
        assert house.books.draining == {0}
        one.begin([1])
    assert house.books.draining == {1}


def test_the_drains_of_the_last_daemon_hold_except_for_gpus_that_are_gone() -> None:
    house = House()
    drains(house, 1, 7)
    assert house.books.draining == {1}
    assert {submit(house, house.hub)["gpu_id"] for _ in range(3)} == {0}


def test_a_memory_that_fails_keeps_nothing_from_being_drained() -> None:
    house = House()

    def fail(gpu_ids: frozenset[int]) -> None:
        raise OSError("disk full")

    one = Drains(house.books, Recall(house.books, house.reconciler), fail)
    one.begin([0])
    assert house.books.draining == {0}


def test_what_is_down_is_drained_when_it_is_back() -> None:
    house = House(gpus=1)
    house.operations.drain([0])
    house.backends[0].become(BackendState.DOWN)
    house.turn()
    house.backends[0].become(BackendState.READY)
    told = submit(house, house.gates[0])["prompt_id"]
    assert house.backends[0].client.submitted == []
    assert told in house.ledger.waiting
    held = house.ledger.assign(told, 0)  # as one that a ComfyUI of somebody else still holds
    house.ledger.hold(held.job, 0, JobState.PENDING)
    house.backends[0].client.items = [[0, "stranger", {}, {}, []], [1, told, {}, {}, []]]
    house.books.changed()
    house.turn()
    assert told in house.ledger.waiting


def test_without_a_companion_nothing_can_be_accepted_there() -> None:
    house = House(gpus=1)
    house.backends[0].has_companion = False
    house.operations.drain([0])
    error = refused(house, house.gates[0])
    assert (error.status, error.type) == (503, "draining")
    assert house.backends[0].client.submitted == []
