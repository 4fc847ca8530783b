"""One timer for a connection whose deadline keeps moving."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

Due = tuple[float, Callable[[], None]]
"""When something is overdue, and what to do then."""


_NEVER = float("inf")


class Alarm:
    """Acts when something is overdue.

    A deadline that moves away costs nothing: the timer finds out when it
    fires.  One that comes nearer has to be made known with :meth:`watch`.

    :param clock: tells the time.
    :param due: asked for the next deadline, None if there is none.
    :ivar at: when it will ask next; never if nothing is set.
    """

    def __init__(self, clock: IReactorTime, due: Callable[[], Due | None]) -> None:
        self.at = _NEVER
        self._clock = clock
        self._due = due
        self._call: IDelayedCall | None = None
        self._stopped = False

    def watch(self) -> None:
        """See that the timer fires no later than the next deadline."""
        due = self._due()
        if due is None or self._stopped:
            return
        if self.at <= due[0]:
            return
        if self._call is not None:
            self._call.cancel()
        self.at = due[0]
        self._call = self._clock.callLater(max(0.0, due[0] - self._clock.seconds()), self._fire)

    def stop(self) -> None:
        """Act no more."""
        self._stopped = True
        self.at = _NEVER
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _fire(self) -> None:
        self._call = None
        self.at = _NEVER
        due = self._due()
        if due is not None and due[0] <= self._clock.seconds():
            due[1]()
        self.watch()
