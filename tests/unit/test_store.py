from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from comfygate.errors import JournalError, JournalVersionError
from comfygate.journal.batch import Batch
from comfygate.journal.keep import Keep
from comfygate.journal.loss import Loss
from comfygate.journal.rescue import Rescue
from comfygate.journal.store import Store
from comfygate.model import JobState
from tests.journals import NOW, fill, finished, make_job, opened, record_of, running, waiting


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def change(path: Path, sql: str, *values: Any) -> None:
    """Change the file behind the journal's back."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql, values)
    connection.close()


def bytes_on_disk(path: Path) -> bytes:
    return b"".join(one.read_bytes() for one in path.parent.iterdir())


def test_a_new_file_holds_nothing_and_is_for_its_owner(path: Path) -> None:
    store = opened(path)
    loaded = store.load()
    assert (loaded.jobs, loaded.finished, loaded.sequence) == ((), (), 0)
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {0o600}
    store.close()


def test_what_was_written_comes_back_in_order(path: Path) -> None:
    store = opened(path)
    store.load()
    written = fill(store, 60)
    store.close()
    again = opened(path)
    loaded = again.load()
    assert [noted.job for noted in loaded.jobs] == list(written.jobs)
    assert {noted.job.prompt_id for noted in loaded.jobs if noted.state is JobState.RUNNING} == written.running
    assert [ended.prompt_id for ended in loaded.finished] == [job.prompt_id for job in written.done]
    assert (loaded.sequence, loaded.lost, loaded.losses) == (60, (), ())
    assert all(again.history(job.prompt_id) == record_of(job) for job in written.done)
    assert again.history(written.jobs[0].prompt_id) is None
    assert again.take_losses() == []
    again.close()


def test_a_change_replaces_what_was_known_but_for_the_prompt(path: Path) -> None:
    store = opened(path)
    store.load()
    job = make_job()
    store.write(Batch(new=(waiting(job),)))
    again = evolve(job, attempts=1, deaths=1, targets=frozenset({1}), expected=1)
    store.write(Batch(changed=(running(again, 1),)))
    store.close()
    loaded = opened(path).load()
    assert loaded.jobs == (running(again, 1),)


def test_nothing_is_kept_of_a_refused_job(path: Path) -> None:
    store = opened(path)
    store.load()
    job = make_job()
    store.write(Batch(new=(waiting(job),)))
    store.write(Batch(refused=(job.sequence,)))
    store.close()
    assert opened(path).load().jobs == ()


def test_only_the_newest_finished_jobs_are_told_of(path: Path) -> None:
    store = opened(path)
    store.load()
    written = fill(store, 60)
    assert [one.prompt_id for one in store.load(3).finished] == [job.prompt_id for job in written.done[-3:]]
    store.close()


@pytest.mark.parametrize("table", ["jobs", "bodies"])
def test_a_damaged_row_ends_its_job_and_no_other(path: Path, table: str) -> None:
    store = opened(path)
    store.load()
    written = fill(store, 60)
    store.close()
    hit = written.jobs[5]
    column = "gate" if table == "jobs" else "outputs"
    change(path, f"UPDATE {table} SET {column} = 'hob' WHERE sequence = ?", hit.sequence)
    again = opened(path)
    loaded = again.load()
    assert [noted.job for noted in loaded.jobs] == [job for job in written.jobs if job is not hit]
    assert [(one.prompt_id, one.state) for one in loaded.lost] == [(hit.prompt_id, JobState.FAILED)]
    assert loaded.finished[-1] == loaded.lost[0]
    assert {loss.table for loss in again.take_losses() if isinstance(loss, Loss)} >= {table}
    later = again.load()
    assert (later.jobs, later.losses, later.lost) == (loaded.jobs, (), ())
    assert later.finished == loaded.finished
    again.close()


def test_a_damaged_end_is_in_quarantine(path: Path) -> None:
    store = opened(path)
    store.load()
    written = fill(store, 60)
    store.close()
    change(path, "UPDATE finished SET state = 'bone' WHERE prompt_id = ?", written.done[3].prompt_id)
    again = opened(path)
    loaded = again.load()
    assert len(loaded.finished) == len(written.done) - 1
    assert [loss.table for loss in loaded.losses] == ["finished"]
    again.close()


def test_a_damaged_record_is_not_handed_out(path: Path) -> None:
    store = opened(path)
    store.load()
    written = fill(store, 60)
    store.close()
    change(path, "UPDATE records SET record = replace(record, 'success', 'sackess') WHERE id = 4")
    again = opened(path)
    again.load()
    page = again.histories([0], None, 100)
    assert [entry.record for entry in reversed(page.entries)] == [
        record_of(job) for job in written.done if job is not written.done[3]
    ]
    assert again.take_losses() == [Loss("records", "the checksum is wrong", written.done[3].prompt_id)]
    assert again.history(written.done[3].prompt_id) is None
    assert again.take_losses() == []
    again.close()


def test_a_damaged_setting_is_not_believed(path: Path) -> None:
    store = opened(path)
    store.set_setting("drained", "[1]")
    store.set_setting("drained", "[1,2]")
    assert (store.setting("drained"), store.setting("other")) == ("[1,2]", None)
    store.close()
    change(path, "UPDATE settings SET value = '[7]' WHERE name = 'drained'")
    again = opened(path)
    assert again.setting("drained") is None
    again.close()


def test_a_newer_version_is_not_touched(path: Path) -> None:
    store = opened(path)
    store.load()
    fill(store, 10)
    store.set_setting("schema", "99")
    store.close()
    change(path, "PRAGMA user_version = 99")
    before = bytes_on_disk(path)
    with pytest.raises(JournalVersionError, match=r"journal\.sqlite was written by a newer ComfyGate .*start that one"):
        opened(path)
    assert bytes_on_disk(path) == before


def test_a_version_that_nothing_else_speaks_of_is_damage(path: Path) -> None:
    store = opened(path)
    store.load()
    written = fill(store, 30)
    store.close()
    change(path, "PRAGMA user_version = 129")
    again = opened(path)
    assert [noted.job for noted in again.load().jobs] == list(written.jobs)
    assert isinstance(again.take_losses()[0], Rescue)
    again.close()


def test_a_file_that_disappears_is_written_again_from_memory(path: Path) -> None:
    store = opened(path)
    store.load()
    written = fill(store, 30)
    for one in path.parent.iterdir():
        one.unlink()
    late = make_job(31)
    store.write(Batch(new=(waiting(late),)))
    store.close()
    assert [noted.job for noted in opened(path).load().jobs] == [*written.jobs, late]


def test_damage_that_shows_while_running_loses_no_job(path: Path) -> None:
    store = opened(path)
    store.load()
    written = fill(store, 300)
    store.close()
    again = opened(path)
    again.load()
    with path.open("r+b") as file:  # all but the first page
        file.seek(4096)
        file.write(b"\xa5" * (os.path.getsize(path) - 4096))
    again._open().execute("PRAGMA shrink_memory")
    late = make_job(301)
    again.write(Batch(new=(waiting(late),), changed=(running(written.jobs[0]),)))
    assert isinstance(again.take_losses()[0], Rescue)
    again.close()
    loaded = opened(path).load()
    assert [noted.job for noted in loaded.jobs] == [*written.jobs, late]
    assert loaded.jobs[0].state is JobState.RUNNING


def test_credentials_are_gone_with_their_job(path: Path) -> None:
    store = opened(path)
    store.load()
    job = make_job(1, size=9000, extra_data={"api_key_comfy_org": "comfyui-top-secret"})
    store.write(Batch(new=(waiting(job), *(waiting(make_job(n)) for n in range(2, 30)))))
    assert b"comfyui-top-secret" in bytes_on_disk(path)
    store.write(Batch(ended=(finished(job),)))
    assert b"comfyui-top-secret" not in bytes_on_disk(path)
    store.close()


def many(store: Store, count: int, size: int = 100) -> list[str]:
    jobs = [make_job(n + 1, size=size) for n in range(count)]
    for start in range(0, count, 50):
        store.write(Batch(ended=tuple(finished(job) for job in jobs[start : start + 50])))
    return [job.prompt_id for job in jobs]


def listed(store: Store) -> list[str]:
    return [entry.prompt_id for entry in reversed(store.histories([0], None, 10_000).entries)]


def prune(store: Store, keep: Keep, now: float | None = None) -> int:
    steps = 1
    while store.prune(keep, now):
        steps += 1
    return steps


def test_the_oldest_histories_beyond_the_number_go_in_small_steps(path: Path) -> None:
    store = opened(path)
    store.load()
    ids = many(store, 400)
    assert prune(store, Keep(finished=50)) == 5
    assert listed(store) == ids[-50:]
    assert len(store.load().finished) == 400  # that they ended is still known
    store.close()


def test_the_oldest_histories_go_when_the_file_is_too_large(path: Path) -> None:
    store = opened(path)
    store.load()
    ids = many(store, 300, size=5000)
    prune(store, Keep(total=1_000_000))
    left = listed(store)
    assert 0 < len(left) < 200
    assert left == ids[-len(left) :]
    store.close()


def test_what_is_known_of_finished_jobs_is_bounded_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfygate.journal.store.REMEMBERED", 100)
    store = opened(path)
    store.load()
    ids = many(store, 400)
    prune(store, Keep(finished=50))
    assert [one.prompt_id for one in store.load().finished] == ids[-100:]
    store.close()


def test_old_histories_go(path: Path) -> None:
    store = opened(path)
    store.load()
    ids = many(store, 100)
    store.prune(Keep(days=1), NOW + 1000 + 86_400 + 50.5)
    assert listed(store) == ids[50:]
    store.close()


def test_a_clock_that_is_put_right_by_years_does_not_empty_everything_at_once(path: Path) -> None:
    store = opened(path)
    store.load()
    many(store, 1500)
    store.prune(Keep(days=1), NOW + 10**9)
    assert len(listed(store)) == 500
    store.close()


def test_the_file_shrinks_when_a_long_queue_is_over(path: Path) -> None:
    store = opened(path)
    store.load()
    jobs = [make_job(n + 1, size=100_000) for n in range(200)]
    store.write(Batch(new=tuple(map(waiting, jobs))))
    store.write(Batch(ended=tuple(finished(job, record=None) for job in jobs)))
    for _ in range(20):
        store.prune(Keep(), None)
    store.close()
    assert path.stat().st_size < 8_000_000  # of 20


def test_histories_are_forgotten_by_gpu_and_id(path: Path) -> None:
    store = opened(path)
    store.load()
    one, two, three = (make_job(n) for n in (1, 2, 3))
    store.write(Batch(ended=(finished(one), finished(two), finished(three, gpu_id=1))))
    store.forget_histories([0], [one.prompt_id, three.prompt_id])
    assert [entry.prompt_id for entry in store.histories([0, 1], None, 9).entries] == [three.prompt_id, two.prompt_id]
    store.forget_histories([0, 1], None)
    assert store.histories([0, 1], None, 9).entries == ()
    assert len(store.load().finished) == 3
    store.close()


def test_histories_come_in_pieces(path: Path) -> None:
    store = opened(path)
    store.load()
    ids = many(store, 20)
    first = store.histories([0], None, 15)
    second = store.histories([0], first.before, 15)
    assert [entry.prompt_id for entry in (*first.entries, *second.entries)] == ids[::-1]
    assert second.before is None
    store.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"nowhere/journal\.sqlite"):
        opened(tmp_path / "nowhere" / "journal.sqlite")


def test_a_read_only_file_refuses_writing_with_a_plain_reason(path: Path) -> None:
    store = opened(path)
    store.load()
    store._open().execute("PRAGMA query_only = ON")
    with pytest.raises(JournalError, match="cannot be written: let this user write there"):
        store.write(Batch(new=(waiting(make_job()),)))
    store._open().execute("PRAGMA query_only = OFF")
    assert store.load().jobs == ()
    store.close()


def test_a_lock_of_another_program_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfygate.journal.sqlite._PATIENCE", 0.05)
    store = opened(path)
    store.load()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked by another program"):
        store.write(Batch(new=(waiting(make_job()),)))
    other.execute("ROLLBACK")
    other.close()
    store.write(Batch(new=(waiting(make_job()),)))
    store.close()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/null", path)])
def test_what_is_no_file_is_named_and_not_waited_for(path: Path, make: Any) -> None:
    make(path)
    with pytest.raises(JournalError, match=f"{path} cannot be read and written .*: move it away"):
        Store.open(str(path))


def test_a_job_whose_id_had_been_used_long_before_is_not_taken_for_over(path: Path) -> None:
    store = opened(path)
    store.load()
    before = make_job(1)
    again = evolve(before, sequence=2)
    store.write(Batch(ended=(finished(before),)))
    store.write(Batch(new=(waiting(again),)))
    store.close()
    assert [one.job.sequence for one in opened(path).load().jobs] == [2]
