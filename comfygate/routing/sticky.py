"""sticky-by-client: a client's prompts stay on one GPU, where its models are loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from comfygate.model import BackendView, Job
from comfygate.routing.inorder import InOrder, work_besides


class StickyByClient(InOrder):
    """Gives each client_id a GPU of its own by rendezvous hashing.

    While that GPU is busy the client's prompts wait for it; when it is down,
    they move to the client's next choice, and other clients stay where they
    are.  Prompts without a client_id go wherever there is least work.
    """

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
