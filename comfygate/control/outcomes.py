"""How many jobs ended how, and how long they waited and ran."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Literal

from attrs import define
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from comfygate.control.durations import Durations
from comfygate.interfaces import IJobListener
from comfygate.model import Job, JobState

Outcome = Literal["done", "failed", "cancelled", "unknown", "refused"]

OUTCOMES: tuple[Outcome, ...] = ("done", "failed", "cancelled", "unknown", "refused")

_OUTCOME: dict[JobState, Outcome] = {
    JobState.DONE: "done",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.UNKNOWN: "unknown",
}
_RAN = frozenset({JobState.DONE, JobState.FAILED})


@define
class _Times:
    """A job's moments on the daemon's clock; `shown_start` is wall time, which people see."""

    accepted: float
    sent: float | None = None
    started: float | None = None
    shown_start: float | None = None


@implementer(IJobListener)
class Outcomes:
    """Listens to the ledger.

    It remembers the times of those jobs only that are not over.

    :param clock: measures.
    :param wall_clock: seconds since 1970, for people.
    :ivar accepted: jobs by gate.
    :ivar ended: jobs by GPU and outcome.  One that no GPU has held counts for
        the GPU under which it was listed.
    :ivar waited: by GPU, seconds from acceptance to the start of the run.
    :ivar ran: by GPU, seconds from the start of the run to its end.
    """

    def __init__(
        self, gpu_ids: Iterable[int], gates: Iterable[str], clock: IReactorTime, wall_clock: Callable[[], float]
    ) -> None:
        self.accepted: Counter[str] = Counter()
        self.ended: dict[tuple[int, Outcome], int] = {}
        self.waited: dict[int, Durations] = {}
        self.ran: dict[int, Durations] = {}
        self._clock = clock
        self._wall_clock = wall_clock
        self._times: dict[str, _Times] = {}
        self._last_end: defaultdict[int, float] = defaultdict(float)
        self.follow(gpu_ids, gates)

    def follow(self, gpu_ids: Iterable[int], gates: Iterable[str]) -> None:
        """Count for these from now on, too; what was counted for others stays."""
        for gate in gates:
            self.accepted[gate] += 0
        for gpu_id in gpu_ids:
            for name in OUTCOMES:
                self.ended.setdefault((gpu_id, name), 0)
            self.waited.setdefault(gpu_id, Durations())
            self.ran.setdefault(gpu_id, Durations())

    def __len__(self) -> int:
        """How many jobs are not over."""
        return len(self._times)

    def running_since(self, prompt_id: str) -> float | None:
        """When a job began to run, in seconds since 1970, if it has been seen to run."""
        times = self._times.get(prompt_id)
        return times.shown_start if times else None

    def runs(self, prompt_id: str) -> None:
        """A job has been seen to run."""
        times = self._times.get(prompt_id)
        if times is not None and times.started is None:
            times.started = self._clock.seconds()
            times.shown_start = self._wall_clock()

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        times = self._times.get(job.prompt_id)
        if times is None:
            self.accepted[job.gate] += 1
            times = self._times[job.prompt_id] = _Times(self._clock.seconds())
        if state is JobState.WAITING:
            times.sent = times.started = times.shown_start = None
        elif state is JobState.RUNNING:
            self.runs(job.prompt_id)
        elif state in _OUTCOME:
            self._end(job, _OUTCOME[state], gpu_id, times, ran=state in _RAN)
        elif times.sent is None:
            times.sent = self._clock.seconds()

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        self._times.pop(job.prompt_id, None)
        self._count(job.expected, "refused")

    def _end(self, job: Job, outcome: Outcome, gpu_id: int | None, times: _Times, *, ran: bool) -> None:
        del self._times[job.prompt_id]
        self._count(job.expected if gpu_id is None else gpu_id, outcome)
        if gpu_id is None:
            return
        now = self._clock.seconds()
        started = times.started
        if started is None and ran and times.sent is not None:
            # It was over before anyone looked: a ComfyUI begins with the next as soon as one ends.
            started = max(times.sent, self._last_end[gpu_id])
        if started is not None:
            self.waited[gpu_id].add(started - times.accepted)
            self.ran[gpu_id].add(now - started)
        self._last_end[gpu_id] = now

    def _count(self, gpu_id: int, outcome: Outcome) -> None:
        if (gpu_id, outcome) in self.ended:
            self.ended[gpu_id, outcome] += 1
