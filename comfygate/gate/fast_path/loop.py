"""What the reactor does between two events: no more than it must."""

from __future__ import annotations

from select import EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger
from twisted.python.log import callWithLogger

from comfygate.gate.fast_path.splices import UNDER_WAY
from comfygate.gate.fast_path.transports import Direct

log = Logger()

ROUNDS = 64
"""How often the kernel is asked for events before the reactor tidies up its timers."""

OTHERS = 10
"""Events that take as long as one splice."""

LONGEST = 3600
"""Seconds of waiting for events at most: epoll_wait() takes no more than 24 days."""


def spin(reactor: Any) -> None:
    """Let the reactor lose no time between one event and the next, and nobody wait for many splices.

    Another reactor than that for epoll is left as it is.
    """
    if isinstance(reactor, EPollReactor):
        reactor.doIteration = _Loop(reactor).iterate  # type: ignore[method-assign]


class _Loop:
    """Waits for events and has them served; in the place of the reactor's ``doIteration()``.

    It waits again without looking at the timers, as long as none is due and no
    call is new; and it calls the transports of this module without a log
    context around each call, for nothing of ours writes to the log that has
    one.  Splices wait until all else that is there has been served; then it is
    the turn of one, or of one for each ten others, which take as long.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._poll = reactor._poller.poll
        self._selectables = reactor._selectables
        self._waiting: dict[int, tuple[Any, int]] = {}  # splices, by descriptor; the longest waiting first

    def iterate(self, timeout: float | None) -> None:
        """Serve what comes, for at most `timeout` seconds without anything."""
        for _ in range(ROUNDS):
            others = self._look(0 if self._waiting else -1 if timeout is None else timeout)
            if self._waiting:
                self._splice(1 + others // OTHERS)
            timeout = self._patience(timeout)
            if timeout == 0:
                return

    def _look(self, timeout: float) -> int:
        """Serve all that there is but splices; say how many events that were."""
        selectables = self._selectables
        events = self._poll(timeout, len(selectables))
        others = len(events)
        for number, event in events:
            found = selectables.get(number)
            if number in UNDER_WAY:
                self._waiting[number] = found, event
                others -= 1
            elif event == EPOLLIN and isinstance(found, Direct):
                try:
                    why = found.doRead()
                except Exception as error:
                    log.failure("a connection failed")
                    why = error
                if why:
                    self._reactor._disconnectSelectable(found, why, True)
            elif found is not None:  # else another one's event has closed it
                self._serve(found, number, event)
        return others

    def _splice(self, most: int) -> None:
        """Serve those that have waited longest."""
        for number in list(self._waiting)[:most]:
            found, event = self._waiting.pop(number)
            # If its splice has ended meanwhile, epoll tells again what there is.
            if number in UNDER_WAY and found is not None and self._selectables.get(number) is found:
                self._serve(found, number, event)

    def _serve(self, found: Any, number: int, event: int) -> None:
        """As Twisted does."""
        callWithLogger(found, self._reactor._doReadOrWrite, found, number, event)

    def _patience(self, timeout: float | None) -> float | None:
        """How long to wait for events now; 0: something else is to be done.  See ``reactor.timeout()``."""
        reactor = self._reactor
        if reactor.threadCallQueue or reactor._justStopped or not reactor.running:
            return 0
        if reactor._newTimedCalls:
            timeout = reactor.timeout()
        elif reactor._pendingTimedCalls:  # the next comes first
            timeout = min(max(0, reactor._pendingTimedCalls[0].time - reactor.seconds()), LONGEST)
        return timeout
