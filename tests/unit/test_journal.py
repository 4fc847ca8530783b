from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from zope.interface.verify import verifyObject

from comfygate.errors import JournalError
from comfygate.interfaces import IJournal
from comfygate.journal.batch import Batch
from comfygate.journal.journal import Journal
from comfygate.journal.keep import Keep
from comfygate.journal.null import NullJournal
from comfygate.journal.store import Store
from comfygate.model import JobState
from tests.journals import NOW, FakeThread, fill, finished, make_job, opened, record_of, running, waiting

FULL = "No space is left on the disk"


class Bench:
    """A journal on a real file, whose disk, thread and clock obey.

    :ivar full: batches of more new jobs than that do not fit; the probe neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "journal.sqlite"
        self.clock = Clock()
        self.thread = FakeThread()
        self.store = opened(self.path)
        self.full: int | None = None
        self.batches: list[Batch] = []
        self.probes = 0
        self._write, self._probe = self.store.write, self.store.probe
        self.store.write = self.write  # type: ignore[method-assign]
        self.store.probe = self.probe  # type: ignore[method-assign]
        self.journal = Journal(
            self.store, self.thread, self.clock, lambda: NOW, keep=Keep(), outliving=lambda gpu_id: gpu_id == 1
        )
        self.journal.start(self.store.load())

    def write(self, batch: Batch) -> None:
        self.batches.append(batch)
        if self.full is not None and len(batch.new) >= self.full:
            raise JournalError(FULL)
        self._write(batch)

    def probe(self) -> None:
        self.probes += 1
        if self.full is not None:
            raise JournalError(FULL)
        self._probe()

    def turn(self) -> None:
        self.clock.advance(0)
        self.clock.advance(0.02)

    @property
    def ended(self) -> float:
        """When a job ended of which it is told now."""
        return NOW + self.clock.seconds()

    def accepted(self, sequence: int = 1) -> Any:
        job = make_job(sequence)
        done = self.journal.accept(job)
        self.turn()
        succeeded(done)
        return job

    def reloaded(self) -> Any:
        store = opened(self.path)
        try:
            return store.load()
        finally:
            store.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def logged() -> Iterator[list[tuple[LogLevel, str]]]:
    found: list[tuple[LogLevel, str]] = []

    def observe(event: Any) -> None:
        found.append((event["log_level"], event["log_format"]))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def succeeded(done: Deferred[Any]) -> Any:
    found: list[Any] = []
    done.addCallback(found.append)
    assert found, "it has not fired"
    return found[0]


def failed(done: Deferred[Any]) -> str:
    found: list[Any] = []
    done.addErrback(found.append)
    assert found, "it has not failed"
    assert found[0].check(JournalError)
    return found[0].getErrorMessage()  # type: ignore[no-any-return]


def pending(done: Deferred[Any]) -> bool:
    return not done.called


def test_they_do_what_the_interface_says(bench: Bench) -> None:
    assert verifyObject(IJournal, bench.journal)
    assert verifyObject(IJournal, NullJournal())


def test_a_job_is_accepted_when_it_is_on_disk(bench: Bench) -> None:
    bench.thread.held = True
    done = bench.journal.accept(make_job())
    bench.turn()
    assert pending(done)
    bench.thread.go_on()
    succeeded(done)
    assert bench.reloaded().jobs == (waiting(make_job()),)


def test_what_comes_in_one_turn_is_one_batch_and_what_comes_meanwhile_the_next(bench: Bench) -> None:
    bench.thread.held = True
    first = [bench.journal.accept(make_job(n)) for n in (1, 2)]
    bench.turn()
    second = [bench.journal.accept(make_job(n)) for n in (3, 4, 5)]
    bench.turn()
    bench.thread.go_on(1)
    assert [len(batch.new) for batch in bench.batches] == [2]
    assert not any(map(pending, first))
    assert all(map(pending, second))
    bench.thread.go_on(1)
    assert [len(batch.new) for batch in bench.batches] == [2, 3]
    assert not any(map(pending, second))


def test_the_whole_life_of_a_job(bench: Bench) -> None:
    job = bench.accepted()
    bench.journal.job_changed(job, JobState.WAITING, None, None, None)
    bench.journal.job_changed(job, JobState.SENT, 0, None, None)
    bench.turn()
    assert len(bench.batches) == 1  # nothing of that is worth writing
    bench.journal.job_changed(job, JobState.RUNNING, 0, None, None)
    bench.turn()
    assert bench.reloaded().jobs == (running(job),)
    ended = bench.ended
    bench.journal.job_changed(job, JobState.DONE, 0, None, record_of(job))
    bench.turn()
    loaded = bench.reloaded()
    assert loaded.jobs == ()
    assert loaded.finished == (finished(job, ended=ended, record=None),)
    assert succeeded(bench.journal.history(job.prompt_id)) == record_of(job)


def test_news_of_known_jobs_wait_a_moment_for_others(bench: Bench) -> None:
    one = bench.accepted(1)
    bench.journal.job_changed(one, JobState.RUNNING, 0, None, None)
    bench.clock.advance(0.01)
    assert len(bench.batches) == 1
    two = make_job(2)
    succeeded_soon = bench.journal.accept(two)
    bench.clock.advance(0)
    succeeded(succeeded_soon)
    assert bench.batches[1:] == [Batch(new=(waiting(two),), changed=(running(one),))]
    bench.journal.job_changed(two, JobState.RUNNING, 0, None, None)
    bench.clock.advance(0.02)
    assert len(bench.batches) == 3
    assert bench.clock.getDelayedCalls() == [bench.journal._housekeeping._timer.call]


def test_flush_waits_for_what_was_told(bench: Bench) -> None:
    succeeded(bench.journal.flush())
    job = bench.accepted()
    bench.thread.held = True
    bench.journal.job_changed(job, JobState.SENT, 1, None, None)
    done = bench.journal.flush()
    bench.turn()
    late = bench.journal.flush()
    assert pending(done)
    assert pending(late)
    bench.thread.go_on()
    succeeded(done)
    succeeded(late)
    assert bench.reloaded().jobs[0].state is JobState.SENT


def test_nothing_is_kept_of_a_job_whose_client_has_left(bench: Bench) -> None:
    bench.thread.held = True
    early, late = bench.journal.accept(make_job(1)), bench.journal.accept(make_job(2))
    early.addErrback(lambda _: None)
    late.addErrback(lambda _: None)
    early.cancel()
    bench.turn()
    late.cancel()
    bench.thread.go_on()
    bench.turn()
    bench.thread.go_on()
    assert bench.reloaded().jobs == ()


def test_a_refused_job_is_gone(bench: Bench) -> None:
    bench.journal.job_refused(bench.accepted())
    bench.turn()
    assert bench.reloaded().jobs == ()


def test_ends_that_are_being_written_are_part_of_the_history(bench: Bench) -> None:
    one, two = bench.accepted(1), bench.accepted(2)
    bench.journal.job_changed(one, JobState.DONE, 0, None, record_of(one))
    bench.turn()
    bench.journal.job_changed(two, JobState.DONE, 0, None, record_of(two))
    assert succeeded(bench.journal.history(two.prompt_id)) == record_of(two)
    both = [
        (one.prompt_id, pytest.approx(bench.ended - 0.02), record_of(one)),
        (two.prompt_id, bench.ended, record_of(two)),
    ]
    assert succeeded(bench.journal.histories([0], None)) == both
    assert succeeded(bench.journal.histories([0], 1)) == both[1:]
    assert succeeded(bench.journal.histories([1], None)) == []
    succeeded(bench.journal.forget_histories([0], [two.prompt_id]))
    bench.turn()
    assert succeeded(bench.journal.histories([0], None)) == both[:1]
    succeeded(bench.journal.forget_histories([0], None))
    assert succeeded(bench.journal.histories([0], None)) == []


def test_long_histories_are_read_in_pieces_up_to_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [make_job(n) for n in range(1, 181)]
    bench.store.write(Batch(ended=tuple(map(finished, jobs))))
    assert [one[0] for one in succeeded(bench.journal.histories([0], None))] == [job.prompt_id for job in jobs]
    assert [one[0] for one in succeeded(bench.journal.histories([0], 60))] == [job.prompt_id for job in jobs[-60:]]
    monkeypatch.setattr("comfygate.journal.reading.MOST_READ", 10_000)
    assert [one[0] for one in succeeded(bench.journal.histories([0], None))] == [job.prompt_id for job in jobs[-50:]]
    ids = [job.prompt_id for job in jobs[:170]]
    succeeded(bench.journal.forget_histories([0], ids))
    assert len(succeeded(bench.journal.histories([0], None))) == 10


# -- a full disk


def test_a_full_disk_refuses_new_jobs_with_a_plain_reason(bench: Bench, logged: list[tuple[LogLevel, str]]) -> None:
    bench.full = 1
    done = bench.journal.accept(make_job(1))
    bench.turn()
    assert failed(done) == FULL
    assert bench.journal.trouble == FULL
    tried = len(bench.batches)
    assert failed(bench.journal.accept(make_job(2))) == FULL
    bench.turn()
    assert len(bench.batches) == tried  # the disk was not asked
    assert [level for level, _ in logged if level is LogLevel.error] == [LogLevel.error]
    assert bench.reloaded().jobs == ()


def test_it_recovers_by_itself(bench: Bench, logged: list[tuple[LogLevel, str]]) -> None:
    bench.full = 1
    failed_job = bench.journal.accept(make_job(1))
    bench.turn()
    failed(failed_job)
    for _ in range(10):
        bench.clock.advance(30)
    assert bench.journal.trouble == FULL
    assert 5 <= bench.probes <= 10
    bench.full = None
    bench.clock.advance(30)
    assert bench.journal.trouble is None
    job = bench.accepted(2)
    assert bench.reloaded().jobs == (waiting(job),)
    said = [text for level, text in logged if level in (LogLevel.error, LogLevel.info)]
    assert len([text for text in said if "journal" in text]) == 2


def test_what_happens_to_others_is_written_where_new_jobs_do_not_fit(bench: Bench) -> None:
    known = bench.accepted(1)
    bench.full = 1
    bench.thread.held = True
    new = bench.journal.accept(make_job(2))
    bench.journal.job_changed(known, JobState.RUNNING, 0, None, None)
    flushed = bench.journal.flush()
    bench.turn()
    more = bench.journal.accept(make_job(3))
    bench.thread.go_on(1)
    assert failed(new) == failed(more) == FULL
    bench.thread.go_on()
    succeeded(flushed)
    assert bench.reloaded().jobs == (running(known),)
    bench.thread.held = False
    bench.journal.job_changed(known, JobState.DONE, 0, None, record_of(known))
    bench.turn()
    assert bench.reloaded().jobs == ()


def test_what_cannot_be_written_at_all_is_kept_until_it_can(bench: Bench) -> None:
    one, two = bench.accepted(1), bench.accepted(2)
    bench.full = 0
    bench.journal.job_changed(one, JobState.RUNNING, 0, None, None)
    bench.turn()
    assert bench.journal.trouble == FULL
    assert failed(bench.journal.flush()) == FULL
    tried = len(bench.batches)
    bench.journal.job_changed(one, JobState.DONE, 0, None, record_of(one))
    bench.journal.job_changed(two, JobState.RUNNING, 0, None, None)
    bench.turn()
    assert len(bench.batches) == tried
    assert succeeded(bench.journal.history(one.prompt_id)) == record_of(one)
    bench.clock.advance(1)
    assert len(bench.batches) == tried + 1
    bench.full = None
    bench.clock.advance(30)
    assert bench.journal.trouble is None
    loaded = bench.reloaded()
    assert loaded.jobs == (running(two),)
    assert [ended.prompt_id for ended in loaded.finished] == [one.prompt_id]
    succeeded(bench.journal.flush())


def test_an_error_that_nobody_thought_of_is_trouble_too(bench: Bench) -> None:
    def fails(batch: Batch) -> None:
        raise RuntimeError("surprise")

    bench.store.write = fails  # type: ignore[method-assign]
    done = bench.journal.accept(make_job())
    bench.turn()
    assert failed(done) == "surprise"
    bench.store.write = bench.write  # type: ignore[method-assign]
    bench.clock.advance(1)
    assert bench.journal.trouble is None


# -- the end


def closing(bench: Bench) -> Deferred[None]:
    done = Deferred.fromCoroutine(bench.journal.close())
    bench.turn()
    return done


def test_closing_writes_what_waits(bench: Bench) -> None:
    job = bench.accepted()
    bench.journal.job_changed(job, JobState.RUNNING, 0, None, None)
    succeeded(closing(bench))
    assert bench.reloaded().jobs == (running(job),)
    assert "stopped" in failed(bench.journal.accept(make_job(2)))
    assert bench.clock.getDelayedCalls() == []


def test_closing_does_not_wait_for_a_disk_that_never_answers(bench: Bench, logged: list[tuple[LogLevel, str]]) -> None:
    bench.thread.held = True
    done = bench.journal.accept(make_job())
    done.addErrback(lambda _: None)
    bench.turn()
    closed = closing(bench)
    bench.clock.advance(10)
    assert pending(closed)
    bench.clock.advance(10)
    succeeded(closed)
    assert [level for level, _ in logged] == [LogLevel.error] * 2


def test_closing_tells_what_is_lost_with_a_full_disk(bench: Bench, logged: list[tuple[LogLevel, str]]) -> None:
    job = bench.accepted()
    bench.full = 0
    bench.journal.job_changed(job, JobState.RUNNING, 0, None, None)
    bench.turn()
    succeeded(closing(bench))
    assert any("could not be written" in text for _, text in logged)
    assert bench.clock.getDelayedCalls() == []


# -- what is kept


def kept(tmp_path: Path, keep: Keep, wall_clock: Callable[[], float]) -> tuple[Journal, Store, Clock]:
    store, clock = Store.open(str(tmp_path / "journal.sqlite"), wall_clock), Clock()
    journal = Journal(store, FakeThread(), clock, wall_clock, keep=keep, outliving=lambda _: False)
    journal.start(store.load())
    return journal, store, clock


def end_one(journal: Journal, clock: Clock, sequence: int) -> None:
    job = make_job(sequence)
    journal.job_changed(job, JobState.DONE, 0, None, record_of(job))
    clock.advance(0.02)


def test_histories_beyond_the_number_go_as_jobs_end(tmp_path: Path) -> None:
    journal, store, clock = kept(tmp_path, Keep(finished=5), lambda: NOW)
    for sequence in range(1, 130):
        end_one(journal, clock, sequence)
    assert len(succeeded(journal.histories([0], None))) <= 5 + 64
    clock.advance(60)
    assert len(succeeded(journal.histories([0], None))) == 5
    succeeded(Deferred.fromCoroutine(journal.close()))
    store.close()


@pytest.mark.parametrize("jump", [-(10**6), 10**6, 10**9])
def test_a_jump_of_the_wall_clock_makes_nothing_old(tmp_path: Path, jump: int) -> None:
    wall = [NOW]
    journal, store, clock = kept(tmp_path, Keep(days=1), lambda: wall[0])
    end_one(journal, clock, 1)
    wall[0] += jump
    end_one(journal, clock, 2)
    for _ in range(60):
        clock.advance(60)
    assert len(succeeded(journal.histories([0], None))) == 2
    for _ in range(24 * 60):
        clock.advance(60)
    assert succeeded(journal.histories([0], None)) == []
    succeeded(Deferred.fromCoroutine(journal.close()))
    store.close()


def test_losses_are_told_in_the_log(tmp_path: Path, logged: list[tuple[LogLevel, str]]) -> None:
    store = opened(tmp_path / "journal.sqlite")
    store.load()
    fill(store, 30)
    store.close()
    with (tmp_path / "journal.sqlite").open("r+b") as file:
        file.write(b"?")
    Bench(tmp_path).store.close()
    assert [level for level, _ in logged] == [LogLevel.critical]


def test_settings_and_inspection(bench: Bench) -> None:
    job = bench.accepted()
    succeeded(bench.journal.set_setting("drained", "[1]"))
    found = succeeded(bench.journal.inspect())
    assert (found.settings, found.counts) == ({"drained": "[1]"}, {"waiting": 1})
    assert [one.job.prompt_id for one in found.unfinished] == [job.prompt_id]


def test_without_a_journal_everything_is_accepted_and_nothing_kept() -> None:
    journal = NullJournal()
    job = evolve(make_job())
    succeeded(journal.accept(job))
    journal.job_changed(job, JobState.DONE, 0, None, record_of(job))
    journal.job_refused(job)
    succeeded(journal.flush())
    assert succeeded(journal.history(job.prompt_id)) is None
    assert succeeded(journal.histories([0], None)) == []
    succeeded(journal.forget_histories([0], None))
    succeeded(journal.set_setting("drained", "[]"))
    succeeded(Deferred.fromCoroutine(journal.close()))
