"""What a scenario is, and what it is handed.

A scenario measures one thing once, at one target, and says what it found as
figures: names with their unit, such as ``requests/s`` or ``p99 ms``, and
numbers.  The rest, such as starting everything, taking turns, medians and
ratios, is the same for all; see :mod:`benchmarks.proxy.course`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from attrs import field, frozen

from benchmarks.proxy.processor import Memory, Used, memory, watched

Figures = dict[str, float]

OURS, PLAIN, TUNED, DEBIAN, HAPROXY, DIRECT = (
    "comfygate",
    "comfygate-plain",
    "nginx-tuned",
    "nginx",
    "haproxy",
    "direct",
)
VARIANTS = (DIRECT, DEBIAN, TUNED, HAPROXY, OURS, PLAIN)
"""In the order of tables."""

PROXIES = tuple(name for name in VARIANTS if name != DIRECT)
"""For what there is only in a proxy, such as its memory."""

BUSY = "proxy's cores"
"""The figure that says how busy the proxy was."""


class MeasuringError(Exception):
    """What was to be measured did not happen, such as other answers than those that were asked for."""


@frozen
class Target:
    """What a scenario sends its requests to.

    :ivar name: one of :data:`VARIANTS`.
    :ivar port: on 127.0.0.1.
    :ivar pids: the processes that carry the traffic; none for ``direct``.
    :ivar folder: where a measurement may write what it needs.
    :ivar behind: what stands behind it.
    """

    name: str
    port: int
    pids: tuple[int, ...]
    folder: Path
    behind: Behind

    def used(self) -> AbstractContextManager[Used]:
        """Count what the proxy uses of the processor, until the end of the block."""
        return watched(self.pids)

    def memory(self) -> Memory:
        """What the proxy holds of memory now."""
        return memory(self.pids)


@frozen
class Behind:
    """A backend that runs.

    :ivar port: where it listens, on 127.0.0.1.
    :ivar details: whatever else its scenarios want to know.
    """

    port: int
    details: Mapping[str, object] = field(factory=dict)


@frozen
class Backend:
    """A kind of backend; scenarios with the same one are measured with the same processes.

    :ivar name: for people.
    :ivar start: starts it in a folder of its own, and ends it.
    :ivar comfygate: lines of ComfyGate's configuration in place of those by
        which it proxies to ``Behind.port``; for backends that it starts itself.
    :ivar gpus: how many GPUs those are.
    """

    name: str
    start: Callable[[Path], AbstractContextManager[Behind]]
    comfygate: str | None = None
    gpus: int = 1


@frozen
class Scenario:
    """One thing to measure.

    :ivar name: a title, unique among all.
    :ivar measure: given a target and how many seconds it may take; returns the figures.
    :ivar variants: at which targets.
    :ivar seconds: as a multiple of what is asked for on the command line.
    :ivar fresh: whether each measurement needs processes that have done nothing yet.
    """

    name: str
    backend: Backend
    measure: Callable[[Target, float], Figures]
    variants: tuple[str, ...] = VARIANTS
    seconds: float = 1.0
    fresh: bool = False


@frozen
class Promise:
    """What a scenario has to show.

    :ivar what: the promise, for people.
    :ivar bound: of ComfyGate's figure; as a multiple of that of the variant `to`, if there is one.
    :ivar at_least: whether the figure may not be lower, instead of higher.
    :ivar less: a variant whose figure is taken off both, as the part that is not the proxy's.
    """

    what: str
    scenario: str
    figure: str
    bound: float
    to: str | None = None
    at_least: bool = False
    less: str | None = None
