"""The daemon's own log, as it is remembered."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger, LogLevel, LogPublisher

from comfygate.control.logbook import LONGEST, LogBook


class Noted:
    """A log that is written to a book; what is to be told is told when the test says so."""

    def __init__(self, most: int = 1000) -> None:
        self.calls: list[Any] = []
        self.book = LogBook(lambda *call: self.calls.append(call), most)
        self.log = Logger("here", observer=LogPublisher(self.book))

    def texts(self, count: int = 1000) -> list[str]:
        return [entry["text"] for entry in self.book.newest(count)]

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call, *arguments in calls:
            call(*arguments)


def test_events_in_words() -> None:
    noted = Noted()
    noted.log.warn("GPU {gpu} went down", gpu=3)
    (entry,) = noted.book.newest(5)
    assert entry["time"] > 0
    assert {**entry, "time": 0} == {"time": 0, "level": "warn", "source": "here", "text": "GPU 3 went down"}


def test_a_failure_is_told_with_its_traceback() -> None:
    noted = Noted()
    with noted.log.failuresHandled("trying"):
        raise ValueError("no")
    (text,) = noted.texts()
    assert text.startswith("trying")
    assert text.rstrip().endswith("builtins.ValueError: no")


def test_only_the_newest_and_nothing_of_little_weight() -> None:
    noted = Noted(most=3)
    for number in range(5):
        noted.log.info(str(number))
        noted.log.debug("details")
    assert noted.texts() == ["2", "3", "4"]
    assert noted.texts(2) == ["3", "4"]
    assert noted.texts(0) == []


def test_a_long_event_is_cut() -> None:
    noted = Noted()
    noted.log.info("{text}", text="x" * 100_000)
    assert noted.texts() == ["x" * LONGEST]


def test_an_event_that_has_no_words_does_not_end_the_log() -> None:
    noted = Noted()
    noted.log.info("{missing}")
    noted.book({"log_level": LogLevel.error})
    assert "missing" in noted.texts()[0]
    assert noted.book.newest(1)[0]["level"] == "error"


def test_who_follows_is_told_of_what_comes_soon_but_not_at_once() -> None:
    noted = Noted()
    noted.log.info("before")
    told: list[Any] = []
    leave = noted.book.follow(lambda entry: told.append(entry["text"]))
    noted.log.info("after")
    assert told == []
    late: list[Any] = []
    noted.book.follow(lambda entry: late.append(entry["text"]))
    noted.turn()
    assert (told, late) == (["after"], [])  # it was among the newest for who came last
    leave()
    noted.log.info("later")
    noted.turn()
    assert (told, late) == (["after"], ["later"])
