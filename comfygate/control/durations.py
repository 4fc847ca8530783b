"""How long things took, as a histogram of plain integers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0)
"""Seconds: from a prompt whose nodes are all cached to a video that takes hours."""


class Durations:
    """Counts durations between :data:`BOUNDS`.

    :ivar total: seconds, all together.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._counts = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        """Something took so long."""
        self.total += seconds
        self._counts[bisect_left(BOUNDS, seconds)] += 1

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound, and how many took no longer; last of all infinity."""
        count = 0
        for bound, more in zip((*BOUNDS, float("inf")), self._counts, strict=True):
            count += more
            yield bound, count
