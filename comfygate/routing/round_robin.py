"""round-robin: to each GPU in turn."""

from __future__ import annotations

from collections.abc import Sequence

from comfygate.model import BackendView, Job
from comfygate.routing.inorder import InOrder


class RoundRobin(InOrder):
    """Picks the GPU whose last assignment lies furthest back."""

    def pick(self, job: Job, candidates: Sequence[BackendView], backends: Sequence[BackendView]) -> BackendView:
        """See :class:`InOrder`."""
        return min(candidates, key=lambda view: (view.last_assigned, view.gpu_id))
