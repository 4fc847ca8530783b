from __future__ import annotations

import pytest
from attrs import evolve

from comfygate.journal import batch as batches
from comfygate.journal.batch import Batch, Notes
from comfygate.journal.records import Journalled
from comfygate.model import JobState
from tests.journals import finished, make_job, running, waiting

OURS, THEIRS = 0, 1


@pytest.fixture
def notes() -> Notes:
    return Notes(lambda gpu_id: gpu_id == THEIRS)


def known(notes: Notes, sequence: int = 1) -> None:
    notes.know(waiting(make_job(sequence)))


def test_of_each_job_only_the_newest_is_written(notes: Notes) -> None:
    job = make_job()
    notes.accept(job)
    notes.change(job, JobState.RUNNING, OURS)
    assert notes.take() == Batch(new=(running(job),))
    notes.change(job, JobState.WAITING, None)
    notes.end(finished(job))
    assert notes.take() == Batch(ended=(finished(job),))
    assert not notes.take()


def test_acceptance_is_not_written_twice(notes: Notes) -> None:
    job = make_job()
    notes.accept(job)
    notes.take()
    assert not notes.change(job, JobState.WAITING, None)
    assert not notes.take()


def test_a_loaded_job_is_not_written_again(notes: Notes) -> None:
    known(notes)
    assert not notes.change(make_job(), JobState.WAITING, None)


def test_a_job_that_nobody_accepted_is_written_as_a_whole(notes: Notes) -> None:
    assert notes.change(make_job(), JobState.WAITING, None)
    assert notes.take() == Batch(new=(waiting(make_job()),))


@pytest.mark.parametrize("state", [JobState.SENT, JobState.UNCLEAR, JobState.PENDING])
def test_what_a_process_of_ours_holds_dies_with_us(notes: Notes, state: JobState) -> None:
    known(notes)
    assert not notes.change(make_job(), state, OURS)
    assert notes.change(make_job(), state, THEIRS)
    assert notes.take() == Batch(changed=(Journalled(make_job(), state, THEIRS),))


def test_a_job_that_waits_again_is_written(notes: Notes) -> None:
    known(notes)
    job = make_job()
    notes.change(job, JobState.RUNNING, OURS)
    notes.take()
    again = evolve(job, attempts=1, deaths=1)
    assert notes.change(again, JobState.WAITING, None)
    assert notes.take() == Batch(changed=(waiting(again),))


def test_a_job_that_may_go_elsewhere_is_written(notes: Notes) -> None:
    known(notes)
    moved = evolve(make_job(), targets=frozenset({1}), expected=1)
    assert notes.change(moved, JobState.WAITING, None)
    assert notes.take() == Batch(changed=(waiting(moved),))


def test_a_refused_job_is_removed(notes: Notes) -> None:
    job = make_job()
    notes.accept(job)
    notes.take()
    notes.drop(job)
    assert notes.take() == Batch(refused=(job.sequence,))


def test_what_could_not_be_written_waits_again_unless_there_is_news(notes: Notes) -> None:
    one, two, three, new = (make_job(n) for n in (1, 2, 3, 4))
    for sequence in (1, 2):
        known(notes, sequence)
    notes.change(one, JobState.RUNNING, OURS)
    notes.change(two, JobState.RUNNING, OURS)
    notes.change(three, JobState.WAITING, None)
    notes.accept(new)
    notes.take()
    notes.end(finished(two))
    notes.change(three, JobState.RUNNING, OURS)
    notes.put_back([new.prompt_id])
    assert notes.take() == Batch(new=(running(three),), changed=(running(one),), ended=(finished(two),))


def test_new_jobs_that_came_meanwhile_are_refused_with_the_others(notes: Notes) -> None:
    one, two = make_job(1), make_job(2)
    notes.accept(one)
    notes.take()
    notes.accept(two)
    notes.put_back([one.prompt_id, two.prompt_id])
    assert not notes.take()


def test_ends_that_are_not_written_yet_are_told_of(notes: Notes) -> None:
    one, two = make_job(1), make_job(2)
    notes.end(finished(one))
    notes.take()
    notes.end(finished(two))
    assert notes.finished() == [finished(one), finished(two)]
    notes.written()
    assert notes.finished() == [finished(two)]
    notes.forget([0], {one.prompt_id})
    assert notes.finished() == [finished(two)]
    notes.forget([0], None)
    assert notes.finished() == [finished(two, record=None)]


def test_records_that_wait_are_bounded(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_RECORD_BYTES", 1000)
    for sequence in range(1, 6):
        notes.end(finished(make_job(sequence), record=b"x" * 300))
    notes.take()
    notes.end(finished(make_job(6), record=b"x" * 300))
    notes.put_back([])
    assert [one.record is not None for one in notes.take().ended] == [True, True, True, False, False, False]


def test_an_id_that_is_used_again_at_once_does_not_keep_the_refused_job(notes: Notes) -> None:
    job = make_job()
    notes.accept(job)
    notes.take()
    notes.written()
    notes.drop(job)
    again = evolve(job, sequence=2)
    notes.accept(again)
    assert notes.take() == Batch(new=(waiting(again),), refused=(1,))
    notes.put_back([again.prompt_id])
    assert notes.take() == Batch(refused=(1,))


def test_a_refused_job_is_not_written_again_after_a_failure(notes: Notes) -> None:
    known(notes)
    notes.change(make_job(), JobState.RUNNING, OURS)
    notes.take()
    notes.drop(make_job())
    notes.put_back(())
    assert notes.take() == Batch(refused=(1,))


def test_a_record_that_was_forgotten_while_it_was_written_does_not_come_back(notes: Notes) -> None:
    notes.end(finished(make_job()))
    notes.take()
    notes.forget([0], None)
    notes.put_back(())
    assert [one.record for one in notes.finished()] == [None]
