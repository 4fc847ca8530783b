"""The last lines of a log."""

from __future__ import annotations

from pathlib import Path

from comfygate.backend.logtail import last_lines


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n\ntwo\r\n  \nthree")
    assert last_lines(log) == ("one", "two", "three")
    assert last_lines(log, 2) == ("two", "three")


def test_what_a_terminal_would_show(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\x1b[31mred\x1b[0m \xff\x00\x07\n 10%|#  |\r 50%|## |\r100%|###|\n\x1b]0;title\x07text\n")
    assert last_lines(log) == ("red \N{REPLACEMENT CHARACTER}", "100%|###|", "text")


def test_endless_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 10_000_000)
    (line,) = last_lines(log)
    assert line == "x" * 300


def test_no_log(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none") == ()
