"""fair: clients take turns, however much each of them sends."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from zope.interface import implementer

from comfygate.interfaces import IRoutingPolicy
from comfygate.line import Line
from comfygate.model import BackendView, Choice, Job
from comfygate.routing.registry import Policies
from comfygate.routing.snapshot import Snapshot

CLIENTS = 32
"""How many clients are asked whose jobs may run on the same GPUs; if nothing of theirs fits now, little else will."""


@implementer(IRoutingPolicy)
class Fair:
    """Serves the client that has had least, and lets another policy choose among that client's jobs.

    What a client has had is counted in seconds of work, loads included, as they
    are expected when a job is handed over.  A client that comes back after a
    pause begins with what the others have: a pause earns nothing.  Jobs without
    a client_id are together one client of each port.  ``front`` and ``number``
    order a client's own jobs.

    :param within: the other policy.
    :param arguments: for that policy.
    """

    def __init__(self, within: str = "affinity", **arguments: str) -> None:
        if within == "fair":
            raise ValueError("within must name another policy than fair, such as affinity")
        self.within: IRoutingPolicy = Policies.installed().make("routing", within, arguments)
        self.reads_memory = bool(getattr(self.within, "reads_memory", False))

    def select(self, waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
        """See :class:`comfygate.interfaces.IRoutingPolicy`."""
        line, gpus = Line.of(waiting), Snapshot.of(backends)
        places = {view.gpu_id for view in gpus.taking}
        if not line or not (places or line[0].urgent):
            return None
        # What is held may come later in the queue, and yet be its client's turn: it is not pushed back.
        closed = Snapshot(view if view.gpu_id in places else evolve(view, prefetch=0) for view in gpus)
        for own in line.turns(CLIENTS):
            urgent = own[0].urgent
            if urgent or any(not places.isdisjoint(job.targets) for job in own.heads()):
                choice = self.within.select(own, gpus if urgent else closed, now)
                if choice is not None:
                    return choice
        return None
