"""What is to be written: the newest about each job, and nothing that need not be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from attrs import evolve, frozen

from comfygate.journal.records import Finished, Journalled
from comfygate.model import Job, JobState

MOST_RECORD_BYTES = 64 * 2**20
"""Bytes of entries of /history that wait to be written; what comes then is written without its entry."""


@frozen(kw_only=True)
class Batch:
    """What one transaction writes.

    :ivar new: jobs to be written as a whole.
    :ivar changed: jobs that are there, but for what changed about them.
    :ivar ended: jobs that are over.
    :ivar refused: sequence numbers of jobs of which nothing is to be kept.
    """

    new: tuple[Journalled, ...] = ()
    changed: tuple[Journalled, ...] = ()
    ended: tuple[Finished, ...] = ()
    refused: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.ended or self.refused)


@frozen
class _Put:
    noted: Journalled
    new: bool


@frozen
class _Drop:
    sequence: int


_Note = _Put | Finished | _Drop


class Notes:
    """Changes that wait to be written, one for each job.

    :param outliving: whether jobs on a GPU outlive the daemon, so that it has
        to know after its own death that they were sent there.
    """

    def __init__(self, outliving: Callable[[int], bool]) -> None:
        self._outliving = outliving
        self._noted: dict[str, Journalled] = {}
        self._waiting: dict[str, _Note] = {}
        self._taken: dict[str, _Note] = {}
        self._record_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def know(self, noted: Journalled) -> None:
        """A job is written like this already."""
        self._noted[noted.job.prompt_id] = noted

    def accept(self, job: Job) -> None:
        """A new job is to be written."""
        noted = Journalled(job, JobState.WAITING, None)
        self._noted[job.prompt_id] = noted
        self._waiting[job.prompt_id] = _Put(noted, new=True)

    def change(self, job: Job, state: JobState, gpu_id: int | None) -> bool:
        """A job that is not over is like this now; say whether that has to be written."""
        if state is not JobState.RUNNING and not (gpu_id is not None and self._outliving(gpu_id)):
            state, gpu_id = JobState.WAITING, None  # as which it would come back
        noted, before = Journalled(job, state, gpu_id), self._noted.get(job.prompt_id)
        if noted == before:
            return False
        waiting = self._waiting.get(job.prompt_id)
        new = before is None or (isinstance(waiting, _Put) and waiting.new)
        self._noted[job.prompt_id] = noted
        self._waiting[job.prompt_id] = _Put(noted, new)
        return True

    def end(self, ended: Finished) -> None:
        """A job is over."""
        self._noted.pop(ended.prompt_id, None)
        self._waiting[ended.prompt_id] = self._bounded(ended)

    def drop(self, job: Job) -> None:
        """Nothing of a job is to be kept."""
        self._noted.pop(job.prompt_id, None)
        self._waiting.pop(job.prompt_id, None)
        # Not under its id, which its client may use again before this is written.
        self._waiting[f"{job.prompt_id} {job.sequence}"] = _Drop(job.sequence)

    def take(self) -> Batch:
        """All that waits, to be written at once."""
        self._taken, self._waiting = self._waiting, {}
        self._record_bytes = 0
        puts = [one for one in self._taken.values() if isinstance(one, _Put)]
        return Batch(
            new=tuple(put.noted for put in puts if put.new),
            changed=tuple(put.noted for put in puts if not put.new),
            ended=tuple(one for one in self._taken.values() if isinstance(one, Finished)),
            refused=tuple(one.sequence for one in self._taken.values() if isinstance(one, _Drop)),
        )

    def put_back(self, accepted: Iterable[str]) -> None:
        """What was taken could not be written, and waits again, unless there is news.

        :param accepted: ids of new jobs that are refused because of that; nothing of them is kept.
        """
        for prompt_id in accepted:
            self._noted.pop(prompt_id, None)
            self._taken.pop(prompt_id, None)
            self._waiting.pop(prompt_id, None)
        newer, self._waiting = self._waiting, self._taken
        self._taken = {}
        self._record_bytes = sum(len(one.record or b"") for one in self._waiting.values() if isinstance(one, Finished))
        for prompt_id, waiting in newer.items():
            self._waiting[prompt_id] = self._merged(self._waiting.get(prompt_id), waiting)
        dropped = {one.sequence for one in self._waiting.values() if isinstance(one, _Drop)}
        for prompt_id, one in tuple(self._waiting.items()):
            if isinstance(one, _Put) and one.noted.job.sequence in dropped:
                del self._waiting[prompt_id]

    def finished(self) -> list[Finished]:
        """Jobs that are over, and not yet written; the last to end comes last."""
        both = {**self._taken, **self._waiting}
        return [one for one in both.values() if isinstance(one, Finished)]

    def written(self) -> None:
        """What was taken is on disk."""
        self._taken = {}

    def forget(self, gpu_ids: Collection[int], prompt_ids: Collection[str] | None) -> None:
        """Leave the records of these jobs out that wait to be written."""
        for notes in (self._waiting, self._taken):  # what was taken may have to be written again
            for prompt_id, one in notes.items():
                wanted = prompt_ids is None or prompt_id in prompt_ids
                if wanted and isinstance(one, Finished) and one.gpu_id in gpu_ids:
                    notes[prompt_id] = evolve(one, record=None)

    def _merged(self, older: _Note | None, newer: _Note) -> _Note:
        if isinstance(newer, Finished):
            return self._bounded(newer)
        if isinstance(newer, _Put) and isinstance(older, _Put):
            return evolve(newer, new=newer.new or older.new)
        return newer

    def _bounded(self, ended: Finished) -> Finished:
        size = len(ended.record or b"")
        if self._record_bytes + size > MOST_RECORD_BYTES:
            return evolve(ended, record=None)
        self._record_bytes += size
        return ended
