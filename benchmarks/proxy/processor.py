"""What a process used of processor and memory, as Linux counts it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, frozen

CPU_CLOCK = 2
"""See clock_getcpuclockid(3): the clock of a process counts all its threads, also those that have ended."""


def cpu_seconds(pid: int) -> float:
    """Processor time of a process until now, to the nanosecond."""
    return time.clock_gettime_ns((~pid << 3) | CPU_CLOCK) / 1e9


@define
class Used:
    """What some processes used during a measurement; NaN where there is no process to look at.

    :ivar cpu: seconds of processor time.
    :ivar wall: seconds that it took.
    """

    cpu: float = math.nan
    wall: float = math.nan

    @property
    def busy(self) -> float:
        """Cores that were kept busy: near 1 for a single thread that is the bottleneck."""
        return self.cpu / self.wall


@contextmanager
def watched(pids: Iterable[int]) -> Iterator[Used]:
    """Count what these processes use, until the end of the block."""
    pids, used = tuple(pids), Used()
    cpu, began = sum(map(cpu_seconds, pids)), time.monotonic()
    yield used
    used.wall = time.monotonic() - began
    if pids:
        used.cpu = sum(map(cpu_seconds, pids)) - cpu


@frozen
class Memory:
    """Bytes of memory.

    :ivar rss: resident, with all that is shared with others.
    :ivar pss: resident, with its part of what is shared.
    """

    rss: float
    pss: float


def memory(pids: Iterable[int]) -> Memory:
    """What these processes hold now, together; NaN where there are none."""
    rolls = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    if not rolls:
        return Memory(math.nan, math.nan)
    return Memory(*(sum(1024.0 * _field(roll, name) for roll in rolls) for name in ("Rss", "Pss")))


def _field(roll: str, name: str) -> int:
    return int(roll.partition(f"\n{name}:")[2].split()[0])
