"""sticky-by-client: a client's prompts stay on one GPU, where its models are loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from comfygate.model import BackendView, Choice, Job
from comfygate.routing.inorder import InOrder, work_besides


class StickyByClient(InOrder):
    """Gives each client_id a GPU of its own by rendezvous hashing.

    While that GPU is busy the client's prompts wait for it; when it is down,
    they move to the client's next choice, and other clients stay where they
    are.  Prompts without a client_id go wherever there is least work.
    """

    def select(self, waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
        """See :class:`comfygate.interfaces.IRoutingPolicy`."""
        firsts: dict[tuple[str | None, frozenset[int]], Job] = {}
        for job in waiting:  # if a client's first job finds no room, then its later ones don't either
            firsts.setdefault((job.client_id, job.targets), job)
        return super().select(list(firsts.values()), backends, now)

    def pick(self, job: Job, candidates: Sequence[BackendView], backends: Sequence[BackendView]) -> BackendView | None:
        """See :class:`InOrder`."""
        if job.client_id is None:
            return min(candidates, key=lambda view: (work_besides(view, job), view.gpu_id))
        client = job.client_id
        home = max(
            (view for view in backends if view.available and view.gpu_id in job.targets),
            key=lambda view: hashlib.blake2b(f"{view.gpu_id} {client}".encode()).digest(),
        )
        return home if home in candidates else None
