import pytest

from comfygate.queue import QueueFullError, WaitingJobs
from comfygate.testing import job


def test_jobs_run_by_number_and_then_by_order_of_acceptance() -> None:
    waiting = WaitingJobs(10, 1000)
    first, second, front, late = job(number=1), job(number=1), job(number=-5), job(number=9)
    for one in (late, second, first, front):
        waiting.add(one)
    assert list(waiting.of_gate("hub")) == [front, first, second, late]
    assert waiting.remove(first.prompt_id) is first
    assert list(waiting.of_gate("hub")) == [front, second, late]
    assert len(waiting) == 3
    assert first.prompt_id not in waiting


def test_each_gate_has_a_queue_of_its_own() -> None:
    waiting = WaitingJobs(10, 1000)
    here, there = job(gate="gpu-0"), job(gate="gpu-1")
    waiting.add(here)
    waiting.add(there)
    assert list(waiting.of_gate("gpu-0")) == [here]
    assert list(waiting.of_gate("none")) == []


def test_the_queue_is_bounded_in_jobs_and_bytes() -> None:
    waiting = WaitingJobs(2, 1000)
    waiting.check_room(1000)
    with pytest.raises(QueueFullError, match="1000"):
        waiting.check_room(1001)
    waiting.add(job())
    waiting.add(job())
    with pytest.raises(QueueFullError, match="max_pending"):
        waiting.check_room(0)


def test_bytes_are_given_back() -> None:
    waiting = WaitingJobs(10, 1000)
    big = job(size=900)
    waiting.add(big)
    with pytest.raises(QueueFullError):
        waiting.check_room(200)
    waiting.remove(big.prompt_id)
    waiting.check_room(200)


def test_removing_what_does_not_wait_is_an_error() -> None:
    with pytest.raises(KeyError):
        WaitingJobs(1, 1).remove("nope")
