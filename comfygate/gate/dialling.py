"""How often a backend is dialled: not for everybody at once, not at once again, and not for ever."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.internet import backoffPolicy

from comfygate.bucket import TokenBucket

AT_ONCE = 50
"""Dials to one backend in one moment; its kernel may keep 128 connections for it."""

A_SECOND = 500.0
"""Dials a second after that, which is less than a ComfyUI accepts."""

DELAYS = backoffPolicy(initialDelay=0.25, maxDelay=10.0, factor=2.0)
"""Seconds before the n-th dial in a row after a failure, and up to 1 s of chance."""

PATIENCE = 60.0
"""Seconds for which a backend may refuse a client, though it is said to be ready."""

STEADY = 10.0
"""Seconds that a connection has to last for the next failure to count as the first."""


def dial_bucket() -> TokenBucket:
    """Tokens for the dials to one backend."""
    return TokenBucket(A_SECOND, AT_ONCE)


class Failures:
    """Connections to a backend for one client that came to nothing, one after the other."""

    __slots__ = ("_count", "_since")

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0

    def __bool__(self) -> bool:
        return self._count > 0

    def forget(self) -> None:
        """Begin anew."""
        self._count = 0

    def delay(self, now: float, lasted: float, delays: Callable[[int], float]) -> float | None:
        """One more connection failed, or was lost.

        :param now: seconds on the daemon's clock.
        :param lasted: seconds that it was open for.
        :param delays: see :data:`DELAYS`.
        :return: seconds after which to dial again; ``None`` if that has been
            tried for too long.
        """
        if lasted >= STEADY:
            self._count = 0
        if not self._count:
            self._since = now
        elif now - self._since >= PATIENCE:
            return None
        self._count += 1
        return delays(self._count - 1)
