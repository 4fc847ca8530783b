"""most-free-memory: to the GPU with the most free memory."""

from __future__ import annotations

from collections.abc import Sequence

from comfygate.model import BackendView, Job
from comfygate.routing.inorder import InOrder, work_besides


class MostFreeMemory(InOrder):
    """Picks an idle GPU before a busy one, and among those the one with the most free memory.

    One whose memory nobody knows comes last.
    """

    reads_memory = True
    """Asks the daemon to keep ``free_memory`` up to date."""

    def pick(self, job: Job, candidates: Sequence[BackendView], backends: Sequence[BackendView]) -> BackendView:
        """See :class:`InOrder`."""
        return min(candidates, key=lambda view: (bool(view.active), *_lack(view), work_besides(view, job), view.gpu_id))


def _lack(view: BackendView) -> tuple[bool, int]:
    return (True, 0) if view.free_memory is None else (False, -view.free_memory)
