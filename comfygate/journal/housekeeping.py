"""Drops what is beyond what is to be kept, a little at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.errors import JournalError
from comfygate.journal.keep import Keep
from comfygate.journal.store import Store
from comfygate.journal.thread import InThread

_EVERY = 60.0
"""Seconds between looks at the age."""

_ENDS = 64
"""Jobs that may end before their number is looked at."""


class Housekeeping:
    """Has the store pruned.

    :param now: seconds since 1970, on a clock that does not jump.
    :ivar keep: how much is kept.
    """

    _log = Logger()

    def __init__(
        self, store: Store, asked: InThread, clock: IReactorTime, now: Callable[[], float], keep: Keep
    ) -> None:
        self._store = store
        self._asked = asked
        self._clock = clock
        self.keep = keep
        self._now = now
        self._ends = 0
        self._busy = False
        self._timer = LoopingCall(self._look, aged=True)
        self._timer.clock = clock

    def start(self) -> None:
        """Look from now on."""
        self._timer.start(_EVERY)

    def stop(self) -> None:
        """Do nothing more."""
        self._busy = True
        if self._timer.running:
            self._timer.stop()

    def one_more(self) -> None:
        """A job has ended."""
        self._ends += 1
        if self._ends >= _ENDS:
            self._look()

    def _look(self, *, aged: bool = False) -> None:
        if self._busy:
            return
        self._busy = True
        self._ends = 0
        now = self._now() if aged else None
        done: Deferred[bool] = self._asked(lambda: self._store.prune(self.keep, now))
        done.addCallbacks(self._looked, self._failed)

    def _looked(self, more: bool) -> None:
        self._busy = False
        if more:  # behind whatever has come meanwhile
            self._clock.callLater(0, self._look)

    def _failed(self, failure: Failure) -> None:
        self._busy = False
        error: Any = failure.trap(JournalError)
        self._log.debug("the journal was not pruned: {error}", error=error)
