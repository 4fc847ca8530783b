"""A log that is read on, while it is rotated as the guard rotates it."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfygate.backend.guard import Log
from comfygate.backend.logfollow import LONGEST, PIECE, TAIL, FollowedLog


def read_all(log: FollowedLog) -> list[str]:
    found = log.read()
    while log.more:
        found += log.read()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "comfyui.log"


def test_a_log_that_is_not_there_yet(path: Path) -> None:
    log = FollowedLog(path)
    assert log.tail(10) == []
    assert log.read() == []
    path.write_text("one\n")
    assert log.read() == ["one"]


def test_only_whole_lines_are_told(path: Path) -> None:
    path.write_text("one\ntw")
    log = FollowedLog(path)
    assert log.tail(10) == ["one"]
    assert log.read() == []
    with path.open("a") as file:
        file.write("o\n  three\n\n")
    assert log.read() == ["two", "  three"]


def test_the_last_lines_come_from_older_files_too(path: Path) -> None:
    writing = Log(str(path), 4096, 3)
    for number in range(600):
        writing.write(b"line %04d\n" % number)
    writing.close()
    assert path.with_name("comfyui.log.1").exists()
    assert FollowedLog(path).tail(500) == [f"line {number:04}" for number in range(100, 600)]


def test_a_long_log_is_not_read_whole(path: Path) -> None:
    path.write_bytes(b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * (TAIL // 100 + 10))
    found = FollowedLog(path).tail(1_000_000)
    assert TAIL // 100 - 1 <= len(found) <= TAIL // 100
    assert set(found) == {"y" * 99}


@pytest.mark.parametrize("every", [1, 7, 300])
def test_nothing_is_lost_when_files_are_rotated(path: Path, every: int) -> None:
    """Files of 4 KiB: some 400 lines; at the worst two files are filled between two reads."""
    writing = Log(str(path), 4096, 5)
    writing.write(b"begin\n")
    log = FollowedLog(path)
    assert log.tail(10) == ["begin"]
    found: list[str] = []
    for number in range(1500):
        writing.write(b"line %06d\n" % number)
        if number % every == 0:
            found += read_all(log)
    found += read_all(log)
    writing.close()
    assert found == [f"line {number:06}" for number in range(1500)]


def test_a_reader_that_is_too_late_goes_on_with_what_is_left(path: Path) -> None:
    writing = Log(str(path), 4096, 2)
    writing.write(b"begin\n")
    log = FollowedLog(path)
    log.tail(1)
    for number in range(3000):
        writing.write(b"line %06d\n" % number)
    found = read_all(log)
    assert 200 < len(found) < 3000
    assert found[-1] == "line 002999"
    writing.close()


def test_what_was_thrown_away_before_it_was_read_is_not_passed_over_in_silence(path: Path) -> None:
    path.write_text("one\nhalf of")
    log = FollowedLog(path)
    log.tail(1)
    path.rename(path.with_name("elsewhere"))
    path.write_text("another\n")
    assert log.read() == ["… another"]


def test_a_log_of_one_file_is_cut(path: Path) -> None:
    path.write_text("a long line\n")
    log = FollowedLog(path)
    log.tail(1)
    path.write_text("short\n")
    assert log.read() == ["short"]


def test_one_piece_at_a_time(path: Path) -> None:
    path.write_text("")
    log = FollowedLog(path)
    log.tail(0)
    path.write_bytes(b"z" * 15 + b"\n" + (b"y" * 15 + b"\n") * (2 * PIECE // 16))
    assert len(log.read()) == PIECE // 16
    assert log.more
    assert len(log.read()) == PIECE // 16
    assert log.read() == ["y" * 15]
    assert not log.more


def test_a_line_without_end_is_bounded(path: Path) -> None:
    path.write_text("")
    log = FollowedLog(path)
    log.tail(0)
    path.write_bytes(b"x" * (3 * PIECE))
    found = read_all(log)
    assert found
    assert max(map(len, found)) == LONGEST


def test_a_progress_bar_is_what_it_shows_in_the_end(path: Path) -> None:
    path.write_text("")
    log = FollowedLog(path)
    log.tail(0)
    with path.open("ab", buffering=0) as file:
        for percent in range(100):
            file.write(b"%d%%\r" % percent)
            assert log.read() == []
        file.write(b"\x1b[32m100%\x1b[0m\n")
    assert log.read() == ["100%"]
