"""A SIGHUP never ends the process, whenever it comes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from comfygate.config.settings import ConfigError
from comfygate.hangups import Hangups


class Reactor:
    """Keeps what is to be called."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.calls.append(lambda: function(*arguments))

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


@pytest.fixture
def hangups() -> Iterator[Hangups]:
    before = signal.getsignal(signal.SIGHUP)
    made = Hangups()
    made.listen()
    yield made
    signal.signal(signal.SIGHUP, before)


def test_each_asks_for_a_reload_in_the_reactor(hangups: Hangups) -> None:
    reactor, asked = Reactor(), []

    def reload() -> Deferred[Sequence[str]]:
        asked.append(1)
        return succeed([]) if len(asked) < 2 else fail(ConfigError("gpus.ini", "", "", "is wrong"))

    hangups.connect(reactor, reload)
    for number in (1, 2):
        os.kill(os.getpid(), signal.SIGHUP)
        assert len(asked) == number - 1, "not in the signal's own moment"
        reactor.run()
        assert len(asked) == number


def test_one_that_comes_too_early_is_acted_on_once(hangups: Hangups) -> None:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGHUP)
    reactor, asked = Reactor(), []

    def reload() -> Deferred[Sequence[str]]:
        asked.append(1)
        return succeed([])

    hangups.connect(reactor, reload)
    reactor.run()
    assert asked == [1]


def test_one_that_comes_too_late_does_nothing(hangups: Hangups) -> None:
    hangups.ignore()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGHUP)
