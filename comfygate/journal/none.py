"""What stands in for a journal where none is wanted: jobs end with the daemon."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from comfygate.interfaces import IJournal
from comfygate.model import Job, JobState


@implementer(IJournal)
class NullJournal:
    """Keeps nothing; see :class:`comfygate.interfaces.IJournal`."""

    lasting = False

    def accept(self, job: Job) -> Deferred[None]:
        """Succeed at once."""
        return succeed(None)

    def flush(self) -> Deferred[None]:
        """Succeed at once."""
        return succeed(None)

    def history(self, prompt_id: str) -> Deferred[bytes | None]:
        """Know nothing."""
        return succeed(None)

    def histories(self, gpu_ids: Iterable[int], newest: int | None) -> Deferred[list[tuple[str, float, bytes]]]:
        """Know nothing."""
        return succeed([])

    def forget_histories(self, gpu_ids: Iterable[int], prompt_ids: Iterable[str] | None) -> Deferred[None]:
        """Have nothing to forget."""
        return succeed(None)

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """Take no note."""

    def job_refused(self, job: Job) -> None:
        """Take no note."""
