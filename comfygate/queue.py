"""The waiting jobs: accepted prompts that no backend holds yet."""

from __future__ import annotations

from collections.abc import Iterator

from comfygate.line import Line
from comfygate.model import Job
from comfygate.routing.shares import Shares


class QueueFullError(Exception):
    """No more prompts are accepted until some have run; try again later."""


class WaitingJobs:
    """Waiting jobs, a line for each gate, bounded in number and bytes.

    :param max_jobs: how many may wait in all.
    :param max_bytes: how many bytes of JSON they may hold in all.
    """

    def __init__(self, max_jobs: int, max_bytes: int) -> None:
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._bytes = 0
        self._jobs: dict[str, Job] = {}
        self._gates: dict[str, Line] = {}
        self._shares = Shares()

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
        self._line(job.gate).add(job)

    def remove(self, prompt_id: str) -> Job:
        """Take a job out.

        :raises KeyError: if it is not waiting.
        """
        job = self._jobs.pop(prompt_id)
        self._bytes -= job.size
        self._gates[job.gate].remove(job)
        return job

    def hand_over(self, prompt_id: str, gpu_id: int, seconds: float) -> None:
        """A job is about to be taken out, since it goes to a GPU.

        :param seconds: of work, that it is expected to be; its client is due again the later.
        :raises KeyError: if it is not waiting.
        """
        job = self._jobs[prompt_id]
        self._gates[job.gate].hand_over(job, gpu_id, seconds)
        self._shares.charge(job.client, seconds)

    def get(self, prompt_id: str) -> Job:
        """A waiting job.

        :raises KeyError: if it is not waiting.
        """
        return self._jobs[prompt_id]

    def of_gate(self, gate: str) -> Line:
        """The jobs that came through `gate`, in the order in which they would run."""
        return self._gates.get(gate) or Line()

    def _line(self, gate: str) -> Line:
        if gate not in self._gates:
            self._gates[gate] = Line((), self._shares.due)
        return self._gates[gate]

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)
