"""One question to several backends."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from comfygate.backend.asking import Told, ask_at_once
from comfygate.errors import BackendUnreachable


class Round:
    def __init__(self, *gpu_ids: int, **bounds: Any) -> None:
        self.clock = Clock()
        self.waiting: dict[int, Deferred[Any]] = {gpu_id: Deferred() for gpu_id in gpu_ids}
        self.results: list[Any] = []
        questions = {gpu_id: self.wait(gpu_id) for gpu_id in gpu_ids}
        self.asking = Deferred.fromCoroutine(ask_at_once(self.clock, questions, **bounds))  # type: ignore[arg-type]
        self.asking.addBoth(self.results.append)

    async def wait(self, gpu_id: int) -> Any:
        return await self.waiting[gpu_id]

    @property
    def told(self) -> Told[Any]:
        assert self.results, "it waits"
        return self.results[0]  # type: ignore[no-any-return]


def test_answers_come_in_the_order_of_the_questions() -> None:
    asked = Round(2, 0, 1, seconds=5)
    for gpu_id in (0, 1, 2):
        assert not asked.results
        asked.waiting[gpu_id].callback(gpu_id)
    assert list(asked.told.answers.items()) == [(2, 2), (0, 0), (1, 1)]
    assert not asked.told.failures and not asked.clock.getDelayedCalls()


def test_one_that_is_silent_is_given_up_and_no_longer_asked() -> None:
    asked = Round(0, 1, seconds=5)
    asked.waiting[1].callback("x")
    asked.clock.advance(4.9)
    assert not asked.results
    asked.clock.advance(0.1)
    assert asked.told.answers == {1: "x"}
    assert "within 5 s" in str(asked.told.failures[0])
    assert asked.waiting[0].called and not asked.clock.getDelayedCalls()


def test_once_one_has_answered_the_others_have_little_time() -> None:
    asked = Round(0, 1, 2, seconds=5, rest=1)
    asked.waiting[0].callback(None)
    asked.clock.advance(2)
    assert not asked.results
    asked.waiting[1].callback("x")
    asked.clock.advance(1)
    assert asked.told.answers == {0: None, 1: "x"} and list(asked.told.failures) == [2]


def test_failures_are_told_and_mistakes_raised() -> None:
    asked = Round(0, 1, seconds=5)
    error = BackendUnreachable("gone")
    asked.waiting[0].errback(error)
    asked.waiting[1].callback(1)
    assert asked.told.failures == {0: error}
    asked = Round(0, seconds=5)
    asked.waiting[0].errback(ZeroDivisionError())
    assert asked.results[0].check(ZeroDivisionError)
    assert Round(seconds=5).told == Told({}, {})


def test_whoever_asks_may_leave() -> None:
    asked = Round(0, 1, seconds=5)
    asked.asking.cancel()
    assert asked.results[0].check(CancelledError)
    assert not asked.clock.getDelayedCalls()
    assert all(waiting.called for waiting in asked.waiting.values())
