"""What policies that keep the queue's order have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from zope.interface import implementer

from comfygate.interfaces import IRoutingPolicy
from comfygate.model import BackendView, Choice, Job


def work_besides(view: BackendView, job: Job) -> int:
    """How much work a GPU has before it, `job` itself not counted.

    A running prompt weighs as much as ten pending ones.
    """
    return view.running * 10 + view.pending - (view.gpu_id == job.expected)


@implementer(IRoutingPolicy)
class InOrder(ABC):
    """Takes the first job that any backend accepts; subclasses pick the backend."""

    def select(self, waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
        """See :class:`comfygate.interfaces.IRoutingPolicy`."""
        roomy = {view.gpu_id for view in backends}
        for job in waiting:
            if roomy.isdisjoint(job.targets):
                continue
            candidates = [view for view in backends if view.accepts(job)]
            picked = self.pick(job, candidates, backends) if candidates else None
            if picked is not None:
                return Choice(job, picked.gpu_id)
            if not candidates:  # some GPU is full for this job, and so for all later ones
                roomy = {view.gpu_id for view in backends if view.has_room(job.order)}
                if not roomy:
                    return None
        return None

    @abstractmethod
    def pick(self, job: Job, candidates: Sequence[BackendView], backends: Sequence[BackendView]) -> BackendView | None:
        """Pick a backend for `job`.

        :param candidates: those that would accept it now; never empty.
        :param backends: the whole set.
        :return: one of `candidates`, or ``None`` to let the job wait.
        """
