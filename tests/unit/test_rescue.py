"""Damage of every kind, done to real files: what is readable comes back, and nothing is invented."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfygate.errors import JournalError
from comfygate.journal.files import MOST_ASIDE, Files
from comfygate.journal.load import Loaded
from comfygate.journal.rescue import Rescue, find_damage, rescue
from comfygate.journal.store import Store
from comfygate.model import JobState
from tests.journals import NOW, Written, fill, opened, record_of

NAME = "journal.sqlite"
LOG = f"{NAME}-wal"
FLIPS = {NAME: 70, LOG: 25}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, Path]:
    """300 jobs; in ``open`` all of them stand in the log, in ``closed`` in the file itself."""
    folder = tmp_path_factory.mktemp("written")
    store = opened(_folder(folder / "work") / NAME)
    store.load()
    jobs = fill(store)
    shutil.copytree(folder / "work", folder / "open")
    store.close()
    shutil.copytree(folder / "work", folder / "closed")
    return jobs, folder


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.fixture
def closed(written: tuple[Written, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[1] / "closed", tmp_path / "closed")) / NAME


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def check(jobs: Written, store: Store, loaded: Loaded) -> tuple[int, int]:
    """See that nothing is altered or invented; say how many jobs and records are missing."""
    expected = {job.prompt_id: job for job in jobs.jobs}
    for noted in loaded.jobs:
        assert noted.job == expected[noted.job.prompt_id]
        assert noted.state in (JobState.WAITING, JobState.RUNNING)
    ended = {one.prompt_id for one in loaded.finished if one.state is JobState.DONE}
    assert ended <= {job.prompt_id for job in jobs.done}
    records = 0
    for job in jobs.done:
        record = store.history(job.prompt_id)
        assert record in (None, record_of(job))
        records += record is not None
    missing = {job.prompt_id for job in jobs.jobs} - {noted.job.prompt_id for noted in loaded.jobs}
    # Their clients are told that they failed.
    assert missing == {one.prompt_id for one in loaded.lost}
    return len(missing) + len(jobs.done) - len(ended), len(jobs.done) - records


def places(size: int, count: int) -> Iterator[tuple[int, int]]:
    """Heads of file and pages, and anywhere; bits of bytes."""
    chance = random.Random(size)
    for number in range(count):
        head = chance.randrange(100), chance.randrange(0, size, 4096) + chance.randrange(16)
        yield (*head, chance.randrange(size))[number % 3], chance.randrange(8)


@pytest.mark.parametrize(("where", "name"), [("closed", NAME), ("open", LOG)])
def test_a_flipped_bit_costs_what_it_hit(written: tuple[Written, Path], tmp_path: Path, where: str, name: str) -> None:
    jobs, folder = written
    for place, bit in places(os.path.getsize(folder / where / name), FLIPS[name]):
        copy = tmp_path / f"{place}-{bit}"
        shutil.copytree(folder / where, copy, dirs_exist_ok=True)
        flip(copy / name, place, bit)
        store = opened(copy / NAME)
        loaded = store.load()
        lost, records = check(jobs, store, loaded)
        assert lost + records <= 1, (place, bit)
        assert not lost or store.take_losses(), (place, bit)
        store.close()
        shutil.rmtree(copy)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(("where", "name"), [("closed", NAME), ("open", LOG)])
def test_a_file_that_was_cut_off_keeps_its_beginning(
    written: tuple[Written, Path], tmp_path: Path, where: str, name: str, part: float
) -> None:
    jobs, folder = written
    copy = Path(shutil.copytree(folder / where, tmp_path / "copy"))
    os.truncate(copy / name, int(os.path.getsize(copy / name) * part))
    store = opened(copy / NAME)
    loaded = store.load()
    for noted in loaded.jobs:
        assert noted.job in (*jobs.jobs, *jobs.done)  # ends that were cut off may be unknown
    for one in loaded.lost:
        assert one.prompt_id in {job.prompt_id for job in (*jobs.jobs, *jobs.done)}
    if part > 0.5:
        assert len(loaded.jobs) > 75
    store.close()


def test_a_file_that_is_gone_is_read_from_its_log(written: tuple[Written, Path], tmp_path: Path) -> None:
    for number, removed in enumerate((lambda path: path.unlink(), lambda path: os.truncate(path, 0))):
        copy = Path(shutil.copytree(written[1] / "open", tmp_path / str(number)))
        removed(copy / NAME)
        store = opened(copy / NAME)
        assert check(written[0], store, store.load()) == (0, 0)
        store.close()


def test_without_its_log_a_file_still_opens(written: tuple[Written, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(written[1] / "open", tmp_path / "copy"))
    (copy / LOG).unlink()
    store = opened(copy / NAME)
    store.load()
    store.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 20_000, b"no SQLite file at all\n" * 1000, os.urandom(30_000)])
def test_what_is_no_journal_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / NAME
    path.write_bytes(content)
    store = opened(path)
    loaded = store.load()
    assert (loaded.jobs, loaded.finished) == ((), ())
    losses = store.take_losses()
    if content:
        (done,) = losses
        assert isinstance(done, Rescue)
        assert Path(done.aside).read_bytes() == content
    store.close()


def test_a_database_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / NAME
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE jobs (name TEXT)")
    connection.close()
    store = opened(path)
    assert store.load().jobs == ()
    assert isinstance(store.take_losses()[0], Rescue)
    store.close()


@pytest.mark.parametrize("table", ["jobs", "bodies", "finished"])
def test_a_page_of_zeros_costs_its_rows(closed: Path, written: tuple[Written, Path], table: str) -> None:
    connection = sqlite3.connect(closed)
    leaf = f"SELECT pageno FROM dbstat WHERE name = '{table}' AND pagetype = 'leaf' LIMIT 1"
    try:
        (number,) = connection.execute(leaf).fetchone()
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat")
    finally:
        connection.close()
    with closed.open("r+b") as file:
        file.seek((number - 1) * 4096)
        file.write(b"\0" * 4096)
    store = opened(closed)
    loaded = store.load()
    assert len(loaded.jobs) + len(loaded.lost) > 200
    store.close()


def test_a_rescue_that_was_cut_short_begins_again(closed: Path, written: tuple[Written, Path]) -> None:
    Path(f"{closed}.mending").write_bytes(b"half")
    flip(closed, 0, 0)
    store = opened(closed)
    assert check(written[0], store, store.load()) == (0, 0)
    store.close()
    assert not Path(f"{closed}.mending").exists()


def test_a_rescue_that_was_not_named_yet_counts(
    closed: Path, written: tuple[Written, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(str(closed))
    moves = []
    rename = os.rename

    def cut(source: str, target: str) -> None:
        if len(moves) == 2:  # the damaged file is aside, the new one has not got its name
            raise KeyboardInterrupt
        moves.append(source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", cut)
    with pytest.raises(KeyboardInterrupt):
        rescue(files, "for a test", NOW)
    monkeypatch.undo()
    assert not closed.exists()
    store = opened(closed)
    assert check(written[0], store, store.load()) == (0, 0)
    store.close()


def test_few_damaged_files_are_kept(closed: Path) -> None:
    for _ in range(MOST_ASIDE + 2):
        flip(closed, 0, 0)
        opened(closed).close()
    assert len(Files(str(closed)).aside()) == MOST_ASIDE


def test_what_cannot_be_mended_stays_and_is_told(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(closed, 0, 0)
    before = closed.read_bytes()

    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr("comfygate.journal.rescue.migrate", full)
    with pytest.raises(JournalError, match="No space is left on the disk that holds"):
        opened(closed)
    assert closed.read_bytes() == before


def test_a_good_file_is_not_suspected(written: tuple[Written, Path]) -> None:
    for where in ("open", "closed"):
        assert find_damage(Files(str(written[1] / where / NAME))) is None


def test_what_a_killed_program_was_writing_is_no_damage(written: tuple[Written, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(written[1] / "open", tmp_path / "copy"))
    os.truncate(copy / LOG, os.path.getsize(copy / LOG) - 2000)
    assert find_damage(Files(str(copy / NAME))) is None
