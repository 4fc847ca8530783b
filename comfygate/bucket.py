"""Token buckets: how many requests a port, or a client of it, may make.

Levels are computed when somebody asks; there are no timers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class TokenBucket:
    """`rate` tokens a second flow in, up to `burst`; a request takes one.

    :param rate: tokens per second; 0 means no limit.
    :param burst: tokens that a full bucket holds.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = float("-inf")

    def take(self, now: float, max_wait: float = 0.0) -> tuple[bool, float]:
        """Take one token, if need be one that is yet to flow in.

        :param now: seconds on a clock that never goes back.
        :param max_wait: seconds that the caller is ready to wait.
        :return: ``(True, seconds to wait first)``, or ``(False, seconds after
            which a token could be had)`` with nothing taken.
        """
        if self._rate <= 0:
            return True, 0.0
        self._refill(now)
        if self._level >= 1:
            self._level -= 1
            return True, 0.0
        wait = (1 - self._level) / self._rate
        if wait > max_wait:
            return False, wait
        self._level -= 1
        return True, wait

    def _refill(self, now: float) -> None:
        elapsed = now - self._at
        if elapsed > 0:
            self._level = min(self._burst, self._level + elapsed * self._rate)
            self._at = now


class Buckets:
    """One bucket per key, made when first asked for.

    At most `most` are kept: those asked longest ago go first, which costs
    something only to a server with more clients than that at once.
    """

    def __init__(self, rate: float, burst: float, most: int = 10_000) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def take(self, key: Hashable, now: float, max_wait: float = 0.0) -> tuple[bool, float]:
        """Take a token from the bucket of `key`; see :meth:`TokenBucket.take`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now, max_wait)

    def __len__(self) -> int:
        return len(self._buckets)
