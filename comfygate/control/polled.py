"""Prompts whose clients ask /history and /queue in turn, and look at nothing else.

Between an answer of /history that a prompt has not ended, and the answer of
/queue to the next question, the prompt may end: such a client would find it in
neither.  So one that was just asked for stays in the listings for a moment
after its end, until /history has been asked for it again.
"""

from __future__ import annotations

from collections import OrderedDict

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from comfygate.interfaces import IJobListener
from comfygate.model import Job, JobState

LINGERS = 1.0
"""Seconds between two questions of a client that polls, at most."""

ASKED = 10_000
"""Prompts that are remembered as asked for."""


@frozen
class _Lingering:
    job: Job
    gpu_id: int
    until: float


@implementer(IJobListener)
class Polled:
    """Which prompts are listed although they have just ended."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._lingering: OrderedDict[str, _Lingering] = OrderedDict()

    def asked(self, prompt_id: str) -> None:
        """A client is about to be told that a prompt has not ended."""
        self._asked[prompt_id] = self._clock.seconds() + LINGERS
        self._asked.move_to_end(prompt_id)
        if len(self._asked) > ASKED:
            self._asked.popitem(last=False)

    def told(self, prompt_id: str) -> None:
        """A client has been told how a prompt ended."""
        self._asked.pop(prompt_id, None)
        self._lingering.pop(prompt_id, None)

    def lingering(self, gpu_id: int) -> tuple[Job, ...]:
        """The prompts that count as running on a GPU although they have ended."""
        if not self._lingering:
            return ()
        now = self._clock.seconds()
        while self._lingering and next(iter(self._lingering.values())).until <= now:
            self._lingering.popitem(last=False)
        return tuple(one.job for one in self._lingering.values() if one.gpu_id == gpu_id)

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`; what has no record was removed, and is nowhere."""
        if not state.ended:
            return
        now = self._clock.seconds()
        if self._asked.pop(job.prompt_id, now) > now and gpu_id is not None and record is not None:
            self._lingering[job.prompt_id] = _Lingering(job, gpu_id, now + LINGERS)

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        self._asked.pop(job.prompt_id, None)
