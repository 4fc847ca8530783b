from collections.abc import Iterator

import pytest
from attrs import evolve

from comfygate.ledger import Ledger, Stranger
from comfygate.model import BackendState, Job, JobState
from comfygate.queue import WaitingJobs
from comfygate.testing import job


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    yield Ledger([0, 1], WaitingJobs(100, 10_000), remembered=3)


def accepted(ledger: Ledger, **facts: int) -> Job:
    one = job(**{"expected": 0, **facts})  # type: ignore[arg-type]
    ledger.accept(one)
    return one


def test_a_job_is_in_one_place_at_every_moment(ledger: Ledger) -> None:
    one = accepted(ledger, expected=1)
    assert one.prompt_id in ledger.waiting
    assert (ledger.remaining(0), ledger.remaining(1)) == (0, 1)

    ledger.assign(one.prompt_id, 0)
    assert one.prompt_id not in ledger.waiting
    held = ledger.held(one.prompt_id)
    assert held is not None
    assert (held.gpu_id, held.state) == (0, JobState.SENT)
    assert (ledger.remaining(0), ledger.remaining(1)) == (1, 0)

    ledger.hold(one, 0, JobState.RUNNING)
    assert ledger.remaining(0) == 1
    ledger.end(one.prompt_id, JobState.DONE)
    assert ledger.held(one.prompt_id) is None
    assert ledger.remaining(0) == 0
    ended = ledger.ended(one.prompt_id)
    assert ended is not None
    assert (ended.gpu_id, ended.state) == (0, JobState.DONE)
    assert ledger.knows(one.prompt_id)


def test_a_job_that_is_put_back_takes_its_old_place(ledger: Ledger) -> None:
    first, second = accepted(ledger), accepted(ledger)
    ledger.assign(first.prompt_id, 0)
    ledger.put_back(first.prompt_id, attempts=1)
    assert [one.prompt_id for one in ledger.waiting.of_gate("hub")] == [first.prompt_id, second.prompt_id]
    assert ledger.waiting.get(first.prompt_id).attempts == 1


def test_listings_show_what_runs_and_what_waits_in_running_order(ledger: Ledger) -> None:
    def item(text: bytes, **facts: float) -> Job:
        one = evolve(job(expected=0, **facts), item=text)  # type: ignore[arg-type]
        ledger.accept(one)
        return one

    runs, next_, front = item(b"runs", number=1), item(b"next", number=2), item(b"front", number=-3)
    for one in (runs, next_):
        ledger.assign(one.prompt_id, 0)
        ledger.hold(one, 0, JobState.PENDING)
    ledger.hold(runs, 0, JobState.RUNNING)
    ledger.meet(0, (Stranger("s", 1.5, False, b"stranger"),))
    listing = ledger.listing(0)
    assert listing.running == (b"runs",)
    assert listing.pending == (b"front", b"stranger", b"next")
    assert ledger.remaining(0) == 4
    assert front.prompt_id in ledger.waiting


def test_a_finished_job_no_longer_counts_though_its_outcome_is_not_known_yet(ledger: Ledger) -> None:
    one = accepted(ledger)
    ledger.finish(one.prompt_id)  # it only waits: some other prompt of that name, far away
    assert ledger.remaining(0) == 1
    ledger.assign(one.prompt_id, 0)
    ledger.finish(one.prompt_id)
    assert ledger.remaining(0) == 0
    assert ledger.held(one.prompt_id) is not None
    ledger.end(one.prompt_id, JobState.DONE)
    assert ledger.remaining(0) == 0


def test_ended_jobs_are_remembered_within_a_bound(ledger: Ledger) -> None:
    jobs = [accepted(ledger) for _ in range(5)]
    for one in jobs:
        ledger.end(one.prompt_id, JobState.CANCELLED)
    assert [ledger.knows(one.prompt_id) for one in jobs] == [False, False, True, True, True]


def test_the_view_of_a_gpu(ledger: Ledger) -> None:
    for _ in range(3):
        accepted(ledger, expected=1)
    ran = accepted(ledger, expected=1)
    ledger.assign(ran.prompt_id, 1)
    ledger.hold(ran, 1, JobState.RUNNING)
    ledger.meet(1, (Stranger("r", 0, True, b""), Stranger("p", 0, False, b"")))
    view = ledger.view(1, BackendState.READY, prefetch=2)
    assert (view.running, view.pending, view.active, view.last_assigned) == (2, 4, (ran.order,), 0)
    assert ledger.view(0, BackendState.DOWN, prefetch=2).available is False


def test_a_job_that_a_backend_has_got_counts_as_running_before_it_says_so(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.assign(accepted(ledger).prompt_id, 0)
    view = ledger.view(0, BackendState.READY, prefetch=2)
    assert (view.running, view.pending) == (1, 1)


class Notes:
    def __init__(self) -> None:
        self.taken: list[tuple[JobState | None, int | None, str | None]] = []

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        self.taken.append((state, gpu_id, reason))

    def job_refused(self, job: Job) -> None:
        self.taken.append((None, None, None))


def test_listeners_hear_of_every_step_of_a_job(ledger: Ledger) -> None:
    notes = Notes()
    ledger.subscribe(notes)
    one = accepted(ledger)
    ledger.assign(one.prompt_id, 1)
    ledger.hold(one, 1, JobState.RUNNING)
    ledger.put_back(one.prompt_id, attempts=1)
    ledger.assign(one.prompt_id, 0)
    ledger.end(one.prompt_id, JobState.FAILED, "no memory")
    two = accepted(ledger)
    ledger.assign(two.prompt_id, 0)
    ledger.forget(two.prompt_id)
    assert notes.taken == [
        (JobState.WAITING, None, None),
        (JobState.SENT, 1, None),
        (JobState.RUNNING, 1, None),
        (JobState.WAITING, None, None),
        (JobState.SENT, 0, None),
        (JobState.FAILED, 0, "no memory"),
        (JobState.WAITING, None, None),
        (JobState.SENT, 0, None),
        (None, None, None),
    ]


def test_a_waiting_job_can_be_given_another_gate_and_place(ledger: Ledger) -> None:
    first, second = accepted(ledger), accepted(ledger)
    ledger.relocate(evolve(second, number=-1.0))
    assert [one.prompt_id for one in ledger.waiting.of_gate("hub")] == [second.prompt_id, first.prompt_id]
    ledger.relocate(evolve(second, gate="gpu-1", targets=frozenset({1}), expected=1))
    assert [one.prompt_id for one in ledger.waiting.of_gate("hub")] == [first.prompt_id]
    assert [one.prompt_id for one in ledger.waiting.of_gate("gpu-1")] == [second.prompt_id]
    assert (ledger.remaining(0), ledger.remaining(1), len(ledger.waiting)) == (1, 1, 2)
    ledger.assign(second.prompt_id, 1)
    with pytest.raises(KeyError):
        ledger.relocate(second)
    assert (ledger.remaining(0), ledger.remaining(1)) == (1, 1)


def test_the_first_number_is_that_of_whatever_waits_or_is_held(ledger: Ledger) -> None:
    assert ledger.first_number == 0
    one = accepted(ledger, number=5)
    assert ledger.first_number == 5
    other = accepted(ledger, number=-3)
    ledger.assign(other.prompt_id, 0)
    assert ledger.first_number == -3
    ledger.end(other.prompt_id, JobState.DONE)
    ledger.end(one.prompt_id, JobState.CANCELLED)
    assert ledger.first_number == 0


def test_a_listener_that_fails_keeps_no_other_from_being_told(ledger: Ledger) -> None:
    class Failing(Notes):
        def job_changed(self, *facts: object) -> None:
            raise ZeroDivisionError

        def job_refused(self, job: Job) -> None:
            raise ZeroDivisionError

    notes = Notes()
    ledger.subscribe(Failing())
    ledger.subscribe(notes)
    one = accepted(ledger)
    ledger.assign(one.prompt_id, 1)
    ledger.forget(one.prompt_id)
    assert notes.taken == [(JobState.WAITING, None, None), (JobState.SENT, 1, None), (None, None, None)]
