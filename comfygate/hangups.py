"""SIGHUP asks for the configuration to be read again; without us it would end the daemon."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger


class Hangups:
    """Hears every SIGHUP from :meth:`listen` on; one that comes too early is acted on later."""

    _log = Logger()

    def __init__(self) -> None:
        self._reactor: Any = None
        self._reload: Callable[[], Deferred[Sequence[str]]] | None = None
        self._missed = False

    def listen(self) -> None:
        """Keep the signal from ending us."""
        signal.signal(signal.SIGHUP, self._hear)

    def ignore(self) -> None:
        """Act on none any more; Python itself would give the signal its default action back as it ends."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def connect(self, reactor: Any, reload: Callable[[], Deferred[Sequence[str]]]) -> None:
        """Call `reload` for each signal, in the reactor's thread and once it runs.

        :param reactor: provides IReactorFromThreads.
        """
        self._reactor = reactor
        self._reload = reload
        if self._missed:
            self._hear()

    def _hear(self, *_: object) -> None:
        self._missed = self._reload is None
        if self._reload is not None:
            self._reactor.callFromThread(self._act, self._reload)

    def _act(self, reload: Callable[[], Deferred[Sequence[str]]]) -> None:
        self._log.info("told by SIGHUP to read the configuration again")
        # Whatever is wrong has been logged where it was found.
        reload().addErrback(lambda _: None)
