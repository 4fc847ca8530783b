"""What stands in for a journal where none is wanted."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from comfygate.interfaces import IJournal
from comfygate.model import Job, JobState


@implementer(IJournal)
class NullJournal:
    """Keeps nothing; see :class:`comfygate.interfaces.IJournal` for each method."""

    lasting = False
    trouble: str | None = None

    def accept(self, job: Job) -> Deferred[None]:
        """At once."""
        return succeed(None)

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """Nothing is noted."""

    def job_refused(self, job: Job) -> None:
        """Nothing is noted."""

    def flush(self) -> Deferred[None]:
        """At once."""
        return succeed(None)

    def history(self, prompt_id: str) -> Deferred[bytes | None]:
        """None is kept."""
        return succeed(None)

    def histories(self, gpu_ids: Iterable[int], newest: int | None) -> Deferred[list[tuple[str, float, bytes]]]:
        """None are kept."""
        return succeed([])

    def forget_histories(self, gpu_ids: Iterable[int], prompt_ids: Iterable[str] | None) -> Deferred[None]:
        """None are kept."""
        return succeed(None)

    def set_setting(self, name: str, value: str) -> Deferred[None]:
        """It lasts as long as the daemon."""
        return succeed(None)

    async def close(self) -> None:
        """There is nothing to close."""
