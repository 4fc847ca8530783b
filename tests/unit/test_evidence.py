"""When a backend is beyond help, and when it only looks like that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from comfygate.backend.evidence import (
    GIVEN_UP,
    QUIET,
    STUCK_BUSY,
    STUCK_QUIET,
    Silence,
    Standstill,
    Stuck,
    Verdict,
    interval,
    stall_interval,
    worker_lost,
)
from comfygate.backend.procfs import Usage
from comfygate.model import RestartCause


def watch(
    limit: float,
    used: Callable[[float], float],
    *,
    asked: float = 0.0,
    until: float = 400.0,
    stopped: Callable[[float], bool] = lambda now: False,
    answered: Callable[[float], bool] = lambda now: False,
) -> tuple[float, Verdict] | None:
    """Look at a backend as the watchdog does, and say when it was condemned."""
    silence = Silence(limit)
    pending: float | None = None
    step, tick = interval(limit), 0
    while (now := asked + tick * step) < asked + until:
        if silence.open:
            verdict = silence.look(now, Usage(used(now), stopped(now)))
            if verdict is not None:
                return now, verdict
        if pending is not None and now >= pending:
            silence.gave_up()
            pending = None
        if pending is None:
            silence.asked(now)
            pending = now + silence.patience
            if answered(now):
                silence.answered()
                pending = None
        tick += 1
    return None


@pytest.mark.parametrize("limit", [0.5, 1.5, 15.0, 90.0, 3600.0])
def test_one_that_stands_still_is_hung_in_time(limit: float) -> None:
    found = watch(limit, lambda now: 17.0, until=2 * limit + 60)
    assert found is not None
    when, verdict = found
    # The question comes at most one interval after it stopped.
    assert limit * 0.9 <= when <= limit + interval(limit) * 0.01
    assert verdict.cause is RestartCause.HUNG
    assert verdict.evidence["processor_seconds"] == 0
    assert verdict.evidence["unanswered"] == GIVEN_UP


def test_the_reason_says_what_was_measured() -> None:
    found = watch(90.0, lambda now: 17.0 + now / 10_000, stopped=lambda now: True)
    assert found is not None
    assert found[1].reason == "hung: no answer for 90 s, 0.01 s of processor time, it is stopped"
    assert found[1].evidence["stopped"] is True
    assert found[1].evidence["measured_seconds"] == 75.0


def test_one_that_computes_is_not_hung() -> None:
    assert watch(90.0, lambda now: now, until=100_000) is None
    assert watch(90.0, lambda now: 0.1 * now, until=100_000) is None


def test_threads_that_wait_for_the_gil_are_no_work() -> None:
    assert watch(90.0, lambda now: 0.9 * QUIET * now) is not None


def test_one_that_answers_after_all_is_not_hung() -> None:
    """A stop that is shorter than the limit, again and again."""
    answers = lambda now: now % 75 == 0  # noqa: E731 - a look of its own
    assert watch(90.0, lambda now: 0.0, answered=answers, until=10_000) is None


def test_one_that_stops_after_long_work_has_its_time() -> None:
    found = watch(90.0, lambda now: min(now, 200.0))
    assert found is not None
    assert 200 + 90 <= found[0] <= 200 + 90 + interval(90.0)


def test_a_stop_counts_although_it_worked_until_then() -> None:
    """In the same interval in which the question was put."""
    found = watch(90.0, lambda now: min(now, 14.0), stopped=lambda now: now > 14.0)
    assert found is not None
    assert found[0] <= 14 + 90 + interval(90.0)


def test_a_stopped_program_is_hung_although_others_of_its_family_work() -> None:
    found = watch(90.0, lambda now: now, stopped=lambda now: True)
    assert found is not None
    assert found[0] <= 90 + interval(90.0)


def test_a_clock_that_jumps_is_no_evidence() -> None:
    silence = Silence(90.0)
    silence.asked(0.0)
    silence.gave_up()
    silence.gave_up()
    assert silence.look(15.0, Usage(1.0)) is None
    assert silence.look(100_000.0, Usage(1.0)) is None
    assert silence.silent == 15.0 + 45.0
    assert silence.look(50_000.0, Usage(1.0)) is None
    assert silence.silent == 60.0


def test_one_question_is_no_evidence() -> None:
    silence = Silence(90.0)
    silence.asked(0.0)
    for now in range(0, 3600, 15):
        assert silence.look(float(now), Usage(1.0)) is None


def test_the_last_question_is_left_standing() -> None:
    silence = Silence(90.0)
    assert silence.patience == 30
    silence.gave_up()
    assert silence.patience == 30
    silence.gave_up()
    assert silence.patience == 3600
    silence.answered()
    assert silence.patience == 30


def still(
    limit: float, used: Callable[[float], float], *, moves: Callable[[float], bool] = lambda now: False
) -> object:
    standstill = Standstill(limit)
    step = stall_interval(limit)
    for tick in range(int(10 * limit / step)):
        now = tick * step
        if moves(now):
            standstill.moved()
        verdict = standstill.look(now, Usage(used(now)))
        if verdict is not None:
            return now, verdict.cause, verdict.reason
    return None


def test_a_standstill() -> None:
    assert still(1800.0, lambda now: 5.0) == (
        1800.0,
        RestartCause.STALLED,
        "stalled: no event for 1800 s, 0.00 s of processor time",
    )


def test_work_and_events_are_no_standstill() -> None:
    assert still(1800.0, lambda now: now) is None
    assert still(1800.0, lambda now: 5.0, moves=lambda now: now % 1500 == 0) is None


def test_a_standstill_after_work() -> None:
    found = still(1800.0, lambda now: min(now, 600.0))
    assert isinstance(found, tuple)
    assert 2400 <= found[0] <= 2400 + 2 * stall_interval(1800.0)


def stuck(step: float, used: Callable[[float], float]) -> float:
    found = Stuck()
    for tick in range(1000):
        verdict = found.look(tick * step, Usage(used(tick * step)), 3)
        if verdict is not None:
            assert verdict.cause is RestartCause.STALLED
            assert "nothing runs while 3 wait" in verdict.reason
            return tick * step
    raise AssertionError("not stuck")


def test_a_stuck_queue() -> None:
    assert STUCK_QUIET < stuck(2.0, lambda now: 0.0) <= STUCK_QUIET + 2
    assert STUCK_QUIET < stuck(2.0, lambda now: 0.1 * now) <= STUCK_QUIET + 2  # it answers requests
    assert stuck(5.0, lambda now: 0.0) == 10.0
    assert STUCK_BUSY < stuck(2.0, lambda now: now) <= STUCK_BUSY + 2


def test_a_queue_that_moves_in_between_is_not_stuck() -> None:
    found = Stuck()
    for now in range(0, 100, 5):
        assert found.look(float(now), Usage(0.0), 1) is None
        found.clear()


def test_a_lost_worker() -> None:
    verdict = worker_lost("Exception in thread Thread-3 (prompt_worker)")
    assert verdict.cause is RestartCause.STALLED
    assert verdict.reason == "stalled: its worker is lost (Exception in thread Thread-3 (prompt_worker))"
