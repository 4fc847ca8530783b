"""Where to look for a prompt that is to be interrupted."""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from comfygate.interfaces import IInterruptPolicy
from comfygate.model import BackendView, Job


@implementer(IInterruptPolicy)
class LedgerLookup:
    """ledger: where our books say that it is; everywhere, if it did not come through us."""

    def candidates(
        self, prompt_id: str, job: Job | None, gpu_id: int | None, backends: Sequence[BackendView]
    ) -> Sequence[int]:
        """See :class:`comfygate.interfaces.IInterruptPolicy`."""
        if gpu_id is not None:
            return (gpu_id,)
        if job is not None:
            return ()
        return tuple(view.gpu_id for view in backends if view.available)


@implementer(IInterruptPolicy)
class AskAll:
    """ask-all: every GPU that answers, the one in our books first."""

    def candidates(
        self, prompt_id: str, job: Job | None, gpu_id: int | None, backends: Sequence[BackendView]
    ) -> Sequence[int]:
        """See :class:`comfygate.interfaces.IInterruptPolicy`."""
        known = [] if gpu_id is None else [gpu_id]
        return (*known, *(view.gpu_id for view in backends if view.available and view.gpu_id != gpu_id))
