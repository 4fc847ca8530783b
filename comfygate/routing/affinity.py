"""affinity: to the GPU where a job costs least, since its models are loaded there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from attrs import frozen
from zope.interface import implementer

from comfygate.interfaces import IRoutingPolicy
from comfygate.line import Line
from comfygate.model import BackendView, Choice, Job

GROUPS = 64
"""How many groups of jobs that load the same models are compared, those with the earliest jobs first."""

SLIGHT = 0.1
"""A load that takes no more than this part of the run is none: a LoRA, say."""


@frozen
class _Offer:
    """A GPU that could take a job.  The smallest `rank` is taken."""

    rank: tuple[float, ...]
    job: Job
    view: BackendView


@implementer(IRoutingPolicy)
class Affinity:
    """Keeps each GPU at the models that it has loaded, and loads others where that is worth it.

    In this order:

    1. Jobs that asked to be in front of all others go first, in their order.
    2. A job that has been overtaken as often, or by as much work, as may be
       goes next, to the GPU where it costs least.
    3. A GPU takes a job whose models it will have loaded.
    4. A GPU that is idle loads other models: for a job that no GPU has loaded,
       or to help with jobs that would keep the GPUs that have their models
       loaded busy for longer than the load takes.

    A job that needs a load is not given to a GPU that is still busy: nothing is
    lost, since it could not begin before, and another GPU may be free earlier.

    :param overtake: how often a job may be overtaken.
    :param delay: by how many seconds of work it may be overtaken, shared by the GPUs that may run it.
    """

    def __init__(self, overtake: str = "200", delay: str = "600") -> None:
        self.overtake = int(_number("overtake", overtake, whole=True))
        self.delay = _number("delay", delay)

    def select(self, waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
        """See :class:`comfygate.interfaces.IRoutingPolicy`."""
        if not waiting:
            return None
        line = Line.of(waiting)
        if line[0].urgent:
            offer = self._urgent(line, backends)  # if none, then no GPU with room may run one
            if offer is not None:
                return Choice(offer.job, offer.view.gpu_id)
        taking = [view for view in backends if view.available and len(view.active) < view.prefetch]
        if not taking:
            return None
        offer = self._overdue(line, taking)
        if offer is None:
            comparison = _Comparison(line)
            idle = [view for view in taking if not view.active]
            offer = comparison.loaded(taking) or (comparison.worth_loading(idle, backends) if idle else None)
        return None if offer is None else Choice(offer.job, offer.view.gpu_id)

    def _urgent(self, line: Line, backends: Sequence[BackendView]) -> _Offer | None:
        for job in line:
            if not job.urgent:
                return None
            offer = _cheapest(job, [view for view in backends if view.accepts(job)])
            if offer is not None:
                return offer
        return None

    def _overdue(self, line: Line, taking: Sequence[BackendView]) -> _Offer | None:
        if line.patient(self.overtake, self.delay):
            return None
        for job in line.overdue(self.overtake, self.delay):
            offer = _cheapest(job, [view for view in taking if view.gpu_id in job.targets])
            if offer is not None:
                return offer
        return None


def _number(name: str, text: str, *, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number above 0, not {text!r}")
    return value


def _cheapest(job: Job, views: Iterable[BackendView]) -> _Offer | None:
    """Where a job would end first."""
    offers = (_Offer((view.backlog + view.load_seconds(job.models), view.gpu_id), job, view) for view in views)
    return min(offers, key=lambda offer: offer.rank, default=None)


class _Comparison:
    """What the first jobs of some groups would cost on each GPU; nothing is reckoned twice."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._jobs = list(islice(line.heads(), GROUPS))
        self._seconds: dict[tuple[int, frozenset[str]], float] = {}

    def loaded(self, taking: Sequence[BackendView]) -> _Offer | None:
        """The first job that a GPU will have loaded, on the one that is free first.

        It is not put behind others where an idle GPU has loaded its models before those have run.
        """
        idle = [view for view in taking if not view.active]
        for view in sorted(taking, key=lambda view: (len(view.active), view.backlog, view.gpu_id)):
            for job in self._jobs:
                if view.gpu_id in job.targets and self._has(view, job) and not self._earlier(idle, job, view):
                    return _Offer((), job, view)
        return None

    def worth_loading(self, idle: Sequence[BackendView], backends: Sequence[BackendView]) -> _Offer | None:
        """The first job that no GPU has loaded, or else one of those that keep theirs busy for longest."""
        helping: list[_Offer] = []
        for job in self._jobs:
            able = [view for view in idle if view.gpu_id in job.targets]
            if not able:
                continue
            view = min(able, key=lambda view: (self._load(view, job), view.last_assigned, view.gpu_id))
            having = [one for one in backends if one.available and one.gpu_id in job.targets and self._has(one, job)]
            if not having:
                return _Offer((), job, view)
            work = self._line.alike(job) * view.estimates.run(job) + sum(one.backlog for one in having)
            if work / len(having) > self._load(view, job):
                helping.append(_Offer((-work / (len(having) + 1),), job, view))
        return min(helping, key=lambda offer: offer.rank, default=None)

    def _earlier(self, idle: Sequence[BackendView], job: Job, view: BackendView) -> bool:
        others = (one for one in idle if one is not view and one.gpu_id in job.targets)
        return any(self._load(one, job) < view.backlog for one in others)

    def _has(self, view: BackendView, job: Job) -> bool:
        """Whether a GPU will have loaded what a job needs, or nearly all of it."""
        seconds = self._load(view, job)
        return not seconds or seconds <= SLIGHT * view.estimates.run(job)

    def _load(self, view: BackendView, job: Job) -> float:
        key = (view.gpu_id, job.models)
        found = self._seconds.get(key)
        if found is None:
            found = self._seconds[key] = view.load_seconds(job.models)
        return found
