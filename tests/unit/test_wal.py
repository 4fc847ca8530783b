from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

import pytest

from comfygate.journal.pages import PAGE_SIZE
from comfygate.journal.wal import frames, is_damaged

FRAME = 24 + PAGE_SIZE


@pytest.fixture
def log(tmp_path: Path) -> bytes:
    """A log that was begun anew once, with something left from before."""
    path = tmp_path / "some.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE numbers (id INTEGER PRIMARY KEY, text TEXT)")
    for _ in range(20):
        connection.execute("INSERT INTO numbers (text) VALUES (?)", ("x" * 500,))
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    for _ in range(5):
        connection.execute("INSERT INTO numbers (text) VALUES (?)", ("y" * 500,))
    found = Path(f"{path}-wal").read_bytes()
    connection.close()
    return found


def damaged(log: bytes, place: int, bit: int = 0) -> bytes:
    return log[:place] + bytes([log[place] ^ 1 << bit]) + log[place + 1 :]


def test_only_what_was_written_since_the_log_was_begun_anew_counts(log: bytes) -> None:
    found = frames(log)
    assert 5 <= len(found) < (len(log) - 32) // FRAME
    assert not is_damaged(found)
    assert b"y" * 500 in found[-1].page


@pytest.mark.parametrize("log", [b"", b"\0" * 31, b"\0" * 32, b"x" * 5000])
def test_a_log_without_frames_is_empty(log: bytes) -> None:
    assert [frame for frame in frames(log) if frame.good] == []


def test_a_damaged_frame_spoils_no_other(log: bytes) -> None:
    found = frames(damaged(log, 32 + 2 * FRAME + 1000))
    assert [frame.good for frame in found] == [True, True, False] + [True] * (len(found) - 3)
    assert is_damaged(found)


@pytest.mark.parametrize("place", [*range(0, 32, 3), *range(32 + FRAME + 8, 32 + FRAME + 24)])
def test_damaged_salts_and_sums_spoil_no_page(log: bytes, place: int) -> None:
    found = frames(damaged(log, place, 3))
    assert [frame.page for frame in found if frame.good] == [frame.page for frame in frames(log)]
    assert is_damaged(found)


def test_a_frame_that_was_cut_off_is_none(log: bytes) -> None:
    count = len(frames(log))
    found = frames(log[: 32 + count * FRAME - 1])
    assert len(found) == count - 1
    assert not is_damaged(found)


def test_a_frame_tells_its_page(log: bytes) -> None:
    (number,) = struct.unpack_from(">I", log, 32)
    assert frames(log)[0].number == number
