"""affinity: to the GPU where a job costs least, since its models are loaded there."""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from comfygate.interfaces import IRoutingPolicy
from comfygate.line import Group, Line, group_of
from comfygate.model import BackendView, Choice, Job
from comfygate.routing.comparison import GROUPS, Comparison, Offer
from comfygate.routing.snapshot import Snapshot, free_first

SOON = 0.5
"""The part of its limit from which a job is served by a GPU that can be spared."""

NOW = 0.75
"""The part of its limit from which a job is served by any GPU."""


@implementer(IRoutingPolicy)
class Affinity:
    """Keeps each GPU at the models that it has loaded, and loads others where that is worth it.

    In this order:

    1. Jobs that asked to be in front of all others go first, in their order.
    2. A job that has been overtaken as often, or by as much work, as may be
       goes next, to the GPU where it costs least.
    3. Jobs that come near that are served before it: one after the other
       where their models are loaded, so that a load serves all of them.
    4. A GPU takes a job whose models it will have loaded.
    5. A GPU that is idle loads other models: for a job that no GPU has loaded,
       or to help with jobs that would keep the GPUs that have their models
       loaded busy for longer than the load takes.

    A job that needs a load is not given to a GPU that is still busy, but by the
    first three rules: nothing is lost, since it could not begin before, and
    another GPU may be free earlier.

    :param overtake: how often a job may be overtaken.
    :param delay: by how many seconds of work it may be overtaken, shared by the GPUs that may run it.
    """

    def __init__(self, overtake: str = "200", delay: str = "600") -> None:
        self.overtake = int(_number("overtake", overtake, whole=True))
        self.delay = _number("delay", delay)

    def select(self, waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
        """See :class:`comfygate.interfaces.IRoutingPolicy`."""
        line = Line.of(waiting)
        gpus = Snapshot.of(backends)
        offer = _urgent(line, gpus)  # if none, then no GPU with room may run one
        if offer is None and line and gpus.taking:
            comparison = Comparison(line, gpus, gpus.taking)
            offer = self._overdue(line, comparison) or _usual(comparison)
        return None if offer is None else Choice(offer.job, offer.view.gpu_id)

    def _overdue(self, line: Line, comparison: Comparison) -> Offer | None:
        if line.patient(max(1, int(SOON * self.overtake)), SOON * self.delay):
            return None
        for job in line.overdue(self.overtake, self.delay):
            offer = comparison.cheapest(job)
            if offer is not None:
                return offer
        pressing, soon = (self._first_of_groups(line, part) for part in (NOW, SOON))
        return (
            comparison.loaded(pressing)
            or comparison.unloaded(pressing, comparison.taking)
            or comparison.loaded(soon)
            or comparison.unloaded(soon, comparison.spare)
        )

    def _first_of_groups(self, line: Line, part: float) -> list[Job]:
        """The first job of each group that has been overtaken so far."""
        firsts: dict[Group, Job] = {}
        for job in line.overdue(max(1, int(part * self.overtake)), part * self.delay):
            firsts.setdefault(group_of(job), job)
            if len(firsts) == GROUPS:
                break
        return list(firsts.values())


def _number(name: str, text: str, *, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number above 0, not {text!r}")
    return value


def _urgent(line: Line, gpus: Snapshot) -> Offer | None:
    for job in line:
        if not job.urgent:
            return None
        accepting = [view for view in gpus if view.accepts(job)]
        if accepting:
            return Comparison(line, gpus, free_first(accepting)).cheapest(job)
    return None


def _usual(comparison: Comparison) -> Offer | None:
    idle = comparison.idle
    return comparison.loaded(comparison.heads) or (
        (comparison.unloaded(comparison.heads, idle) or comparison.helping(idle)) if idle else None
    )
