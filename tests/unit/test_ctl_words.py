"""Values as people read them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from comfygate.ctl.words import duration, gpus, moment, number, plain, plain_lines, since, size


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is", "as it is"),
        ("\x1b[31mred\x1b[0m", " [31mred [0m"),
        ("two\r\nlines\tmore", "two  lines more"),
        ("\x9b2J", " 2J"),  # the one-byte form of ESC [
        ("a\u202eb\u200bc", "a b c"),  # turns the writing around; takes no room
        ("\ud800", " "),
        ("日本語", "日本語"),
        (None, ""),
        (5, "5"),
        ("x" * 3000, "x" * 2000 + "…"),
    ],
)
def test_text_of_strangers(text: Any, shown: str) -> None:
    assert plain(text) == shown


def test_lines_stay_lines() -> None:
    assert plain_lines("one\n\ttwo\x1b[2J\nthree") == "one\n        two [2J\nthree"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (119, "1m"),
        (3599, "60m"),
        (3600, "1h"),
        (86_400, "1d"),
        (10 * 86_400, "10d"),
        (-5, "0s"),
        (None, ""),
        ("x", ""),
    ],
)
def test_durations(seconds: Any, shown: str) -> None:
    assert duration(seconds) == shown


def test_since() -> None:
    assert since(100.0, 160.0) == "1m"
    assert since(None, 160.0) == ""
    assert since(100.0, True) == ""


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert moment(1_800_000_000.5) == "2027-01-15 08:00:00"
        assert moment(1e300) == moment(None) == ""
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (150 * 2**20, "150 MiB"), (2**60, "1048576 TiB"), (None, "")],
)
def test_sizes(count: Any, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(("value", "shown"), [(3, "3"), (3.0, "3"), (-2.5, "-2.5"), (None, ""), ("\x1b", " ")])
def test_numbers(value: Any, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("ids", "shown"),
    [([0], "GPU 0"), ([1, 0], "GPUs 0, 1"), (range(8), "GPUs 0 to 7"), ([0, 1, 3], "GPUs 0, 1, 3"), ([], "GPUs none")],
)
def test_gpus(ids: Any, shown: str) -> None:
    assert gpus(ids) == shown
