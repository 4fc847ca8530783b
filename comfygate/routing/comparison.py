"""What jobs cost on each GPU of a gate, held against each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from attrs import frozen

from comfygate.line import Line
from comfygate.model import BackendView, Job
from comfygate.routing.snapshot import Snapshot

GROUPS = 64
"""How many groups of jobs that load the same models are compared, those with the earliest jobs first."""

SLIGHT = 0.1
"""A load that takes no more than this part of the run is none: a LoRA, say."""


@frozen
class Offer:
    """A GPU that could take a job."""

    job: Job
    view: BackendView


class Comparison:
    """The jobs of a line, and the GPUs that may get one now.

    :param line: the gate's waiting jobs.
    :param gpus: the gate's.
    :ivar taking: those of them that have room, those first that are free first.
    :ivar heads: the first job of each group, in order; few enough to compare them.
    """

    def __init__(self, line: Line, gpus: Snapshot, taking: Sequence[BackendView]) -> None:
        self._line = line
        self._gpus = gpus
        self._there = gpus.available
        self.taking = taking
        self.heads = list(islice(line.heads(), GROUPS))

    @property
    def idle(self) -> list[BackendView]:
        """The GPUs that have nothing to do."""
        return [view for view in self.taking if not view.active]

    @property
    def spare(self) -> list[BackendView]:
        """The GPUs whose models no waiting job needs, or none that another GPU has not loaded, too."""
        return [view for view in self.taking if not view.active or not self._is_needed(view)]

    def cheapest(self, job: Job) -> Offer | None:
        """Where a job would end first."""
        able = [view for view in self.taking if view.gpu_id in job.targets]
        where = min(able, key=lambda view: (view.backlog + self._load(view, job), view.gpu_id), default=None)
        return None if where is None else Offer(job, where)

    def loaded(self, jobs: Sequence[Job]) -> Offer | None:
        """The first of `jobs` that a GPU will have loaded, on the one that is free first.

        It is not put behind others where an idle GPU has loaded its models before those have run.
        """
        somewhere = [job for job in jobs if self._may_be_loaded(job)]
        for view in self.taking:
            for job in somewhere:
                if self._has(view, job) and not self._is_earlier_elsewhere(job, view):
                    return Offer(job, view)
        return None

    def unloaded(self, jobs: Iterable[Job], views: Sequence[BackendView]) -> Offer | None:
        """The first of `jobs` that no GPU will have loaded, on one of `views`."""
        for job in jobs:
            where = self._best(views, job)
            if where is not None and not any(self._has(view, job) for view in self._there):
                return Offer(job, where)
        return None

    def helping(self, views: Sequence[BackendView]) -> Offer | None:
        """The first of those jobs that would keep the GPUs that have their models busy for longest."""
        best: tuple[float, Offer] | None = None
        for job in self.heads:
            where = self._best(views, job)
            having = [view for view in self._there if self._has(view, job)]
            if where is None or not having:
                continue
            work = self._line.alike(job) * where.estimates.run(job) + sum(view.backlog for view in having)
            share = work / (len(having) + 1)
            if work / len(having) > self._load(where, job) and (best is None or share > best[0]):
                best = (share, Offer(job, where))
        return None if best is None else best[1]

    def _best(self, views: Sequence[BackendView], job: Job) -> BackendView | None:
        """The one where it disturbs least: the shortest load, and models that were not used for longest."""
        able = [view for view in views if view.gpu_id in job.targets]
        return min(able, key=lambda view: (self._load(view, job), view.last_assigned, view.gpu_id), default=None)

    def _is_needed(self, view: BackendView) -> bool:
        others = [other for other in self._there if other is not view]
        mine = (job for job in self.heads if self._has(view, job))
        return any(not any(self._has(other, job) for other in others) for job in mine)

    def _is_earlier_elsewhere(self, job: Job, view: BackendView) -> bool:
        others = (other for other in self.idle if other is not view and other.gpu_id in job.targets)
        return any(self._load(other, job) < view.backlog for other in others)

    def _has(self, view: BackendView, job: Job) -> bool:
        """Whether a GPU that may run a job will have loaded what it needs, or nearly all of it."""
        if view.gpu_id not in job.targets:
            return False
        seconds = self._load(view, job)
        return not seconds or seconds <= SLIGHT * view.estimates.run(job)

    def _may_be_loaded(self, job: Job) -> bool:
        """Whether a GPU may have loaded what a job needs, or nearly: for most jobs this says no at once."""
        longest = max(map(self._gpus.least_load, job.models), default=0.0)
        return longest <= SLIGHT * self._gpus.longest_run(job)

    def _load(self, view: BackendView, job: Job) -> float:
        return self._gpus.load_seconds(view, job.models)
