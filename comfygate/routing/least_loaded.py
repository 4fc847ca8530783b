"""least-loaded: to the GPU with the least work."""

from __future__ import annotations

from collections.abc import Sequence

from comfygate.model import BackendView, Job
from comfygate.routing.inorder import InOrder, work_besides


class LeastLoaded(InOrder):
    """A running prompt weighs as much as ten pending ones; ties go to the lowest gpu_id."""

    def pick(self, job: Job, candidates: Sequence[BackendView], backends: Sequence[BackendView]) -> BackendView:
        """See :class:`InOrder`."""
        return min(candidates, key=lambda view: (work_besides(view, job), view.gpu_id))
