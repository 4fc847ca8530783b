from __future__ import annotations

import threading
from queue import Queue
from typing import Any

import pytest
from twisted.python.failure import Failure

from comfygate.journal.thread import OneThread


class Turns:
    """A reactor's callFromThread, and its turns."""

    def __init__(self) -> None:
        self.calls: Queue[Any] = Queue()

    def call_from_thread(self, function: Any, *arguments: Any) -> None:
        self.calls.put((function, arguments))

    def turn(self) -> None:
        function, arguments = self.calls.get(timeout=30)
        function(*arguments)


@pytest.fixture
def turns() -> Turns:
    return Turns()


def test_things_are_done_one_after_the_other_in_another_thread(turns: Turns) -> None:
    thread = OneThread(turns.call_from_thread)
    found: list[Any] = []
    for number in range(20):
        thread(lambda number=number: (number, threading.current_thread().name)).addCallback(found.append)  # type: ignore[misc]
    assert found == []
    for _ in range(20):
        turns.turn()
    assert found == [(number, "journal") for number in range(20)]
    thread.end()


def test_what_is_raised_comes_back_and_the_thread_goes_on(turns: Turns) -> None:
    thread = OneThread(turns.call_from_thread)
    failures: list[Failure] = []
    thread(lambda: {}["nothing"]).addErrback(failures.append)
    turns.turn()
    assert failures[0].check(KeyError)
    thread(lambda: 5)
    turns.turn()
    thread.end()


def test_the_thread_ends_when_it_has_done_what_it_was_given(turns: Turns) -> None:
    thread = OneThread(turns.call_from_thread, "for a test")
    thread(lambda: None)
    thread.end()
    turns.turn()
    (own,) = [one for one in threading.enumerate() if one.name == "for a test"] or [None]
    if own is not None:
        own.join(30)
        assert not own.is_alive()


def test_no_thread_is_started_before_there_is_something_to_do(turns: Turns) -> None:
    before = threading.active_count()
    thread = OneThread(turns.call_from_thread)
    assert threading.active_count() == before  # a fork in between would lose it
    thread(lambda: None)
    turns.turn()
    thread.end()
