"""The journal with real kills and real disks that are full."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from comfygate.errors import JournalError
from comfygate.failpoints import VARIABLE
from comfygate.journal.journal import Journal
from comfygate.journal.keep import Keep
from comfygate.journal.store import Store
from comfygate.model import JobState
from tests.journals import FakeThread, make_job, opened, record_of

ROOT = Path(__file__).parents[2]
STEPS = ("journal.accept.noted", "journal.batch.begun", "journal.batch.written", "journal.batch.committed")


def write(path: Path, first: int, count: int, failpoint: str = "") -> tuple[int, dict[str, set[int]]]:
    """Run a process that writes a journal; say how it ended, and which jobs it said what of."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.process.programs.journal_writer", str(path), str(first), str(count)],
        cwd=ROOT,
        env={**os.environ, VARIABLE: failpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr, done.stderr
    said: dict[str, set[int]] = {"accepted": set(), "ended": set()}
    for line in done.stdout.splitlines():
        word, _, sequence = line.partition(" ")
        said[word].add(int(sequence))
    return done.returncode, said


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("time", [1, 2, 7, 20])
def test_what_was_told_survives_a_kill(tmp_path: Path, step: str, time: int) -> None:
    path = tmp_path / "journal.sqlite"
    status, said = write(path, 1, 120, f"{step}:{time}")
    assert status == -signal.SIGKILL
    jobs = {sequence: make_job(sequence, size=3000) for sequence in range(1, 121)}
    store = opened(path)
    loaded = store.load()
    unfinished = {noted.job.sequence for noted in loaded.jobs}
    ended = {one.sequence for one in loaded.finished}
    assert said["accepted"] <= unfinished | ended
    assert said["ended"] <= ended
    assert unfinished.isdisjoint(ended)
    assert all(noted.job == jobs[noted.job.sequence] for noted in loaded.jobs)
    assert all(store.history(jobs[sequence].prompt_id) == record_of(jobs[sequence]) for sequence in ended)
    assert (loaded.lost, store.take_losses()) == ((), [])
    store.close()
    # Life goes on with what was found.
    assert write(path, 121, 8)[0] == 0
    assert {*range(121, 129)} <= {one.sequence for one in opened(path).load().finished} | {
        noted.job.sequence for noted in opened(path).load().jobs
    }


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "8m") -> Iterator[Callable[[], None]]:
    """A file system of its own, almost full; calling what this gives makes room."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        (folder / "ballast").write_bytes(b"x" * 5 * 2**20)
        yield (folder / "ballast").unlink
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def small_files(folder: Path) -> Iterator[Callable[[], None]]:
    """No file may become larger than 2 MiB, until what this gives is called."""
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, hard))
    try:
        yield lift
    finally:
        lift()


@pytest.mark.parametrize("disk", [small_disk, small_files])
def test_a_disk_that_runs_full_costs_no_accepted_job(tmp_path: Path, disk: Any) -> None:
    with disk(tmp_path / "disk") as make_room:
        path = tmp_path / "disk" / "journal.sqlite"
        store, clock = opened(path), Clock()
        journal = Journal(store, FakeThread(), clock, lambda: 0.0, keep=Keep(), outliving=lambda _: False)
        journal.start(store.load())
        accepted = fill_up(journal, clock)
        assert len(accepted) > 10
        assert journal.trouble
        assert str(path) in journal.trouble
        for job in accepted[:10]:
            journal.job_changed(job, JobState.DONE, 0, None, record_of(job))
        for job in accepted[10:]:
            journal.job_changed(job, JobState.RUNNING, 0, None, None)
        for _ in range(3):
            clock.advance(30)
        assert journal.trouble
        make_room()
        clock.advance(30)
        assert journal.trouble is None
        late = make_job(10_000)
        assert accept(journal, clock, late) is None
        store.close()
        again = opened(path)
        loaded = again.load()
        assert [noted.job for noted in loaded.jobs] == [*accepted[10:], late]
        assert [one.sequence for one in loaded.finished] == [job.sequence for job in accepted[:10]]
        assert again.take_losses() == []
        again.close()


def fill_up(journal: Journal, clock: Clock) -> list[Any]:
    accepted = []
    for sequence in range(1, 1000):
        job = make_job(sequence, size=30_000)
        if accept(journal, clock, job) is not None:
            return accepted
        accepted.append(job)
    raise AssertionError("it never was full")


def accept(journal: Journal, clock: Clock, job: Any) -> str | None:
    """Why it was refused, if it was."""
    found: list[str | None] = []
    done = journal.accept(job)
    done.addCallbacks(lambda _: found.append(None), lambda failure: found.append(failure.getErrorMessage()))
    clock.advance(0)
    return found[0]


def test_a_disk_without_any_room_is_told_at_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "other") as make_room:
        with contextlib.suppress(OSError), (tmp_path / "other" / "more").open("wb") as more:
            while True:
                more.write(b"x" * 4096)
                more.flush()
        with pytest.raises(JournalError, match="No space is left on the disk that holds"):
            Store.open(str(tmp_path / "other" / "journal.sqlite")).load()
        make_room()
        Store.open(str(tmp_path / "other" / "journal.sqlite")).close()
