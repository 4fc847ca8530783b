"""What all of the control plane waits for and is told of."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from comfygate.errors import GateError, JournalError
from tests.unit.fakes import House
from tests.unit.test_control import later, now, refused, submit


def waiting(house: House, condition: list[bool], seconds: float | None = None) -> tuple[Deferred[bool], list[object]]:
    results: list[object] = []
    until = Deferred.fromCoroutine(house.books.until(lambda: bool(condition), seconds))
    until.addBoth(results.append)
    return until, results


def test_what_is_so_already_is_not_waited_for() -> None:
    assert now(House().books.until(lambda: True)) is True


def test_a_change_is_looked_at_once_it_is_told() -> None:
    house, condition = House(), []
    _, results = waiting(house, condition, 5.0)
    condition.append(True)
    assert results == []
    house.books.changed()
    house.turn()
    assert results == [True]
    house.books.changed()
    house.turn()
    house.clock.advance(6.0)
    assert results == [True]


def test_a_wait_ends_in_time() -> None:
    house = House()
    _, results = waiting(house, [], 5.0)
    house.clock.advance(4.9)
    house.books.changed()
    house.turn()
    assert results == []
    house.clock.advance(0.2)
    assert results == [False]


def test_one_that_is_cancelled_leaves_nothing_behind() -> None:
    house = House()
    calls = len(house.clock.getDelayedCalls())
    until, results = waiting(house, [], 5.0)
    until.cancel()
    assert isinstance(results[0].value, CancelledError)  # type: ignore[attr-defined]
    assert len(house.clock.getDelayedCalls()) == calls
    house.books.changed()
    house.turn()


def test_several_may_wait_and_one_may_begin_to_wait_in_the_middle_of_a_change() -> None:
    house, first, second = House(), [True], []
    results: list[object] = []

    async def one_after_the_other() -> None:
        results.append(await house.books.until(lambda: len(first) > 1))
        results.append(await house.books.until(lambda: bool(second)))

    done = Deferred.fromCoroutine(one_after_the_other())
    _, other = waiting(house, second)
    for condition in (first, second):
        condition.append(True)
        house.books.changed()
        house.turn()
    assert (results, other) == ([True, True], [True])
    assert done.called


def test_nothing_new_is_begun_once_the_daemon_is_being_stopped() -> None:
    house = House(gpus=1)
    house.books.check_open()
    submit(house, house.gates[0])
    house.books.close(7.0)
    error = refused(house, house.gates[0])
    assert (error.status, error.type, error.retry_after) == (503, "stopping", 17.0)
    house.clock.advance(9.0)
    with pytest.raises(GateError) as caught:
        house.books.check_open()
    assert caught.value.retry_after == 10.0


def test_nothing_waiting_is_handed_over_once_the_daemon_is_being_stopped() -> None:
    house = House(gpus=1)
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(3)]
    house.books.close(7.0)
    house.finish(0)
    assert house.backends[0].client.submitted == ids[:2]
    assert ids[2] in house.ledger.waiting
    assert house.books.draining == set()


def test_an_answer_waits_for_the_journal_but_not_for_ever() -> None:
    house = House()
    house.journal.pause = Deferred()
    _, results = later(house.books.noted(5.0))
    house.clock.advance(4.9)
    assert not results
    house.clock.advance(0.2)
    assert results == [None]
    house.journal.trouble = JournalError("no space left")
    now(house.books.noted())
