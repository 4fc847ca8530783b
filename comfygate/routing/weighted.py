"""weighted: to each GPU as often as its weight says."""

from __future__ import annotations

from collections.abc import Sequence

from comfygate.model import BackendView, Job
from comfygate.routing.inorder import InOrder


class Weighted(InOrder):
    """Takes turns, in which a GPU of weight 2 comes twice as often as one of weight 1.

    The key ``weight`` in ``[gpu:n]`` says how much each gets.  A turn that a
    GPU could not take is lost: what counts is what can run now.
    """

    def pick(self, job: Job, candidates: Sequence[BackendView], backends: Sequence[BackendView]) -> BackendView:
        """See :class:`InOrder`."""
        return min(candidates, key=lambda view: (view.turn, -view.weight, view.gpu_id))
