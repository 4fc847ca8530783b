"""The journal as the daemon uses it: nothing here waits for the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.errors import JournalError
from comfygate.failpoints import reach
from comfygate.interfaces import IJournal
from comfygate.journal.batch import Notes
from comfygate.journal.housekeeping import Housekeeping
from comfygate.journal.inspection import Inspection, inspect
from comfygate.journal.keep import Keep
from comfygate.journal.load import Loaded
from comfygate.journal.reading import forget_histories, histories
from comfygate.journal.records import Finished
from comfygate.journal.rescue import Rescue
from comfygate.journal.store import Store
from comfygate.journal.thread import InThread
from comfygate.journal.writer import Writer
from comfygate.model import Job, JobState

_CLOSING = 10.0
"""Seconds that the disk may take when the daemon stops."""

T = TypeVar("T")


@implementer(IJournal)
class Journal:
    """Keeps every change of a job, a moment after it was told of it.

    :param store: the open file; it is closed with the journal.
    :param in_thread: has what is to be done to the file done, one after the other.
    :param clock: measures.
    :param wall_clock: seconds since 1970; asked once.
    :param keep: how much is kept of finished jobs.
    :param outliving: whether jobs on a GPU outlive the daemon; see
        :class:`comfygate.journal.batch.Notes`.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        in_thread: InThread,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        *,
        keep: Keep,
        outliving: Callable[[int], bool],
    ) -> None:
        self._store = store
        self._in_thread = in_thread
        self._clock = clock
        self._started = wall_clock() - clock.seconds()
        self._notes = Notes(outliving)
        self._writer = Writer(store, self._asked, clock, self._notes)
        self._housekeeping = Housekeeping(store, self._asked, clock, self._now, keep)

    @property
    def lasting(self) -> bool:
        """Whether it keeps how jobs ended."""
        return self._housekeeping.keep.finished > 0

    def keep(self, keep: Keep) -> None:
        """Keep so much of finished jobs from now on."""
        self._housekeeping.keep = keep

    @property
    def trouble(self) -> str | None:
        """Why no new jobs can be written, in one line for people."""
        return self._writer.trouble

    def start(self, loaded: Loaded) -> None:
        """Go on from what :meth:`comfygate.journal.store.Store.load` returned."""
        for noted in loaded.jobs:
            self._notes.know(noted)
        self._tell_losses()
        self._housekeeping.start()

    async def close(self) -> None:
        """Write what waits, as far as that is possible within some seconds, and let the file go.

        What happens later is not written.
        """
        self._housekeeping.stop()
        flushed = self._writer.close()
        flushed.addTimeout(_CLOSING, self._clock)
        try:
            await flushed
        except (JournalError, TimeoutError) as error:
            self._log.error(
                "news of {count} prompts could not be written when the journal was closed: {error}",
                count=len(self._notes),
                error=str(error) or f"the disk did not answer within {_CLOSING:.0f} s",
            )
        closed = self._asked(self._store.close)
        closed.addTimeout(_CLOSING, self._clock)
        try:
            await closed
        except TimeoutError:
            self._log.error("the journal is not closed: the disk does not answer")

    # What it is told.

    def accept(self, job: Job) -> Deferred[None]:
        """See :class:`comfygate.interfaces.IJournal`; if it is cancelled, nothing of the job is kept."""
        reach("journal.accept.noted")
        return self._writer.accept(job)

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        if state.ended:
            self._end(job, state, gpu_id, reason, record)
        elif not self._notes.change(job, state, gpu_id):
            return
        self._writer.soon()

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        self._notes.drop(job)
        self._writer.soon()

    def flush(self) -> Deferred[None]:
        """See :class:`comfygate.interfaces.IJournal`."""
        return self._writer.flush()

    def _end(self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None) -> None:
        ended = Finished(
            sequence=job.sequence,
            prompt_id=job.prompt_id,
            gate=job.gate,
            gpu_id=job.expected if gpu_id is None else gpu_id,  # under which its history is listed
            client_id=job.client_id,
            state=state,
            reason=reason,
            attempts=job.attempts,
            accepted=job.accepted,
            ended=self._now(),
            record=record,
        )
        self._notes.end(ended)
        self._housekeeping.one_more()
        reach("end.noted")

    def _now(self) -> float:
        # Counted on from the start: a wall clock that jumps makes no record old, and none newer than a later one.
        return self._started + self._clock.seconds()

    # What it is asked.

    def history(self, prompt_id: str) -> Deferred[bytes | None]:
        """See :class:`comfygate.interfaces.IJournal`."""
        for one in self._notes.finished():
            if one.prompt_id == prompt_id:
                return succeed(one.record)
        return self._asked(lambda: self._store.history(prompt_id))

    def histories(self, gpu_ids: Iterable[int], newest: int | None) -> Deferred[list[tuple[str, float, bytes]]]:
        """See :class:`comfygate.interfaces.IJournal`; see :data:`comfygate.journal.reading.MOST_READ` for its bound."""
        return Deferred.fromCoroutine(self._histories(tuple(gpu_ids), newest))

    def forget_histories(self, gpu_ids: Iterable[int], prompt_ids: Iterable[str] | None) -> Deferred[None]:
        """See :class:`comfygate.interfaces.IJournal`."""
        chosen, ids = tuple(gpu_ids), None if prompt_ids is None else tuple(prompt_ids)
        self._notes.forget(chosen, None if ids is None else frozenset(ids))
        return Deferred.fromCoroutine(forget_histories(self._store, self._asked, chosen, ids))

    def set_setting(self, name: str, value: str) -> Deferred[None]:
        """Remember a value for the operator; fires when it is written, and fails as :meth:`accept`.

        At the start, :meth:`comfygate.journal.store.Store.setting` tells it.
        """
        return self._asked(lambda: self._store.set_setting(name, value))

    def inspect(self, most: int = 100) -> Deferred[Inspection]:
        """Say what is in the file; see :func:`comfygate.journal.inspection.inspect`."""
        return self._asked(lambda: inspect(self._store.path, most))

    async def _histories(self, gpu_ids: tuple[int, ...], newest: int | None) -> list[tuple[str, float, bytes]]:
        unwritten = [one for one in self._notes.finished() if one.gpu_id in gpu_ids and one.record is not None]
        read = await histories(self._store, self._asked, gpu_ids, newest)
        found = {one.prompt_id: (one.prompt_id, one.ended, one.record) for one in reversed(read)}
        for one in unwritten:
            found[one.prompt_id] = (one.prompt_id, one.ended, one.record or b"")
        listed = list(found.values())
        return listed if newest is None else listed[max(0, len(listed) - newest) :]

    def _asked(self, act: Callable[[], T]) -> Deferred[T]:
        done = self._in_thread(act)
        done.addBoth(self._with_losses)
        return done

    def _with_losses(self, result: T) -> T:
        self._tell_losses()
        return result

    def _tell_losses(self) -> None:
        for loss in self._store.take_losses():
            if isinstance(loss, Rescue):
                self._log.critical(
                    "the journal was damaged ({why}): everything readable was brought into a new one ({rows}), "
                    "the damaged file is {aside}",
                    why=loss.why,
                    rows=", ".join(f"{count} {table}" for table, count in loss.rows.items()) or "nothing",
                    aside=loss.aside,
                )
            else:
                self._log.error(
                    "a damaged row of the journal is in quarantine: {table}, {prompt_id}: {why}",
                    table=loss.table,
                    prompt_id=loss.prompt_id or "nobody knows whose",
                    why=loss.why,
                )
