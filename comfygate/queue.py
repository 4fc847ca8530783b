"""The waiting jobs: accepted prompts that no backend holds yet."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from comfygate.model import Job, Order


class QueueFullError(Exception):
    """No more prompts are accepted until some have run; try again later."""


class WaitingJobs:
    """Waiting jobs, a sorted list for each gate, bounded in number and bytes.

    :param max_jobs: how many may wait in all.
    :param max_bytes: how many bytes of JSON they may hold in all.
    """

    def __init__(self, max_jobs: int, max_bytes: int) -> None:
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._bytes = 0
        self._jobs: dict[str, Job] = {}
        self._gates: dict[str, list[Job]] = {}

    @property
    def max_jobs(self) -> int:
        """How many may wait in all."""
        return self._max_jobs

    def rebound(self, max_jobs: int, max_bytes: int) -> None:
        """Set other bounds; what waits already is kept."""
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes

    def check_room(self, size: int = 0, beside: int = 0) -> None:
        """See whether one more job of `size` bytes could be added.

        :param beside: jobs that count as waiting, though a backend holds them.
        :raises QueueFullError: if not; the message says which bound is reached.
        """
        count = len(self._jobs) + beside
        if count >= self._max_jobs:
            raise QueueFullError(f"{count} prompts are waiting, and max_pending is {self._max_jobs}.")
        if self._bytes + size > self._max_bytes:
            raise QueueFullError(f"The waiting prompts hold {self._bytes} bytes, and {self._max_bytes} is the most.")

    def add(self, job: Job) -> None:
        """Let `job` wait.  Bounds are not checked: what was accepted is kept."""
        self._jobs[job.prompt_id] = job
        self._bytes += job.size
        insort(self._gates.setdefault(job.gate, []), job, key=_order)

    def remove(self, prompt_id: str) -> Job:
        """Take a job out.

        :raises KeyError: if it is not waiting.
        """
        job = self._jobs.pop(prompt_id)
        self._bytes -= job.size
        jobs = self._gates[job.gate]
        del jobs[bisect_left(jobs, job.order, key=_order)]
        return job

    def get(self, prompt_id: str) -> Job:
        """A waiting job.

        :raises KeyError: if it is not waiting.
        """
        return self._jobs[prompt_id]

    def of_gate(self, gate: str) -> Sequence[Job]:
        """The jobs that came through `gate`, in the order in which they would run."""
        return self._gates.get(gate, ())

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)


def _order(job: Job) -> Order:
    return job.order
