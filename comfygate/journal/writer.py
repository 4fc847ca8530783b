"""When which batch is written, and what happens while the disk cannot be written."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.errors import JournalError
from comfygate.journal.batch import Notes
from comfygate.journal.store import Store
from comfygate.journal.thread import InThread
from comfygate.model import Job

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
"""Seconds before the disk is tried again, and how long that may become."""

_MOMENT = 0.02
"""Seconds that news of known jobs wait for others, to be written with them: each batch costs a flush of the disk."""

_STOPPING = "The daemon is being stopped"

_Waiting = list[Deferred[None]]
_Accepting = dict[str, Deferred[None]]


class Writer:
    """Has batches written, one after the other.

    Whatever comes while one is written goes into the next, and of each job only
    the newest: a slow disk makes batches larger, not the queue longer.

    While new jobs cannot be written they are refused, and from time to time
    it is tried whether they could.  What happens to the others is tried at
    once, since it is small and may still fit, and then as often; until it
    works it is kept in memory, one note for each job.

    :param asked: has what is to be done to `store` done, one after the other.
    :ivar notes: what waits to be written; see :meth:`soon`.
    :ivar trouble: why no new jobs can be written, in one line for people.
    """

    _log = Logger()

    def __init__(self, store: Store, asked: InThread, clock: IReactorTime, notes: Notes) -> None:
        self.notes = notes
        self.trouble: str | None = None
        self._store = store
        self._asked = asked
        self._clock = clock
        self._accepting: _Accepting = {}
        self._flushing: _Waiting = []
        self._writing = False
        self._stuck = False  # not even what happens to known jobs can be written
        self._soon: IDelayedCall | None = None
        self._retry: IDelayedCall | None = None
        self._pause = _FIRST_PAUSE
        self._closing = False

    def accept(self, job: Job) -> Deferred[None]:
        """See :class:`comfygate.interfaces.IJournal`; if it is cancelled, nothing of the job is kept."""
        done: Deferred[None] = Deferred(lambda _: self._withdraw(job))
        if self.trouble is not None or self._closing:
            done.errback(JournalError(self.trouble or _STOPPING))
            return done
        self.notes.accept(job)
        self._accepting[job.prompt_id] = done
        self.soon(0)
        return done

    def soon(self, wait: float = _MOMENT) -> None:
        """There is something to be written.

        :param wait: seconds that it may wait; with 0, all that happens in this
            turn of the reactor goes into one batch.
        """
        if self._writing or self._stuck:
            return
        if self._soon is None:
            self._soon = self._clock.callLater(wait, self._write)
        elif self._soon.getTime() > self._clock.seconds() + wait:
            self._soon.reset(wait)

    def flush(self) -> Deferred[None]:
        """See :class:`comfygate.interfaces.IJournal`."""
        done: Deferred[None] = Deferred(lambda one: self._flushing.remove(one) if one in self._flushing else None)
        if not self._writing and not self.notes:
            done.callback(None)
        elif self._stuck:
            done.errback(JournalError(self.trouble or _STOPPING))
        else:
            self._flushing.append(done)
            self.soon(0)
        return done

    def close(self) -> Deferred[None]:
        """Refuse new jobs, and write what waits; fails if that is not possible."""
        self._closing = True
        self._stuck = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        return self.flush()

    def _withdraw(self, job: Job) -> None:
        self.notes.drop(job)
        self.soon()

    def _write(self) -> None:
        if self._soon is not None and self._soon.active():
            self._soon.cancel()
        self._soon = None
        if self._writing or self._stuck:
            return
        batch = self.notes.take()
        accepting, self._accepting = self._accepting, {}
        flushing, self._flushing = self._flushing, []
        if not batch:
            _fire(flushing)
            return
        self._writing = True
        done = self._asked(lambda: self._store.write(batch))
        done.addCallbacks(
            self._written, self._failed, callbackArgs=(accepting, flushing), errbackArgs=(accepting, flushing)
        )
        done.addErrback(lambda failure: self._log.failure("telling of what is in the journal", failure=failure))

    def _written(self, _: None, accepting: _Accepting, flushing: _Waiting) -> None:
        self._writing = False
        self.notes.written()
        if self._accepting or self._flushing:
            self._write()  # the disk works on while clients get their answers
        elif self.notes:
            self.soon()
        _fire(accepting.values())
        _fire(flushing)

    def _failed(self, failure: Failure, accepting: _Accepting, flushing: _Waiting) -> None:
        self._writing = False
        self._fail(failure)
        refused = {**accepting, **self._accepting}
        self._accepting = {}
        self.notes.put_back(refused)
        if refused and self.notes:
            self._flushing += flushing
            self._write()
        else:
            self._stuck = True
            flushing, self._flushing = flushing + self._flushing, []
            _fire(flushing, self.trouble)
        _fire(refused.values(), self.trouble)

    def _fail(self, failure: Failure) -> None:
        if not failure.check(JournalError):
            self._log.failure("writing the journal", failure=failure)
        reason = failure.getErrorMessage()
        if self.trouble is None:
            self._log.error("no prompts are accepted, since the journal cannot be written: {reason}", reason=reason)
            self._pause = _FIRST_PAUSE
        self.trouble = reason
        if self._retry is None and not self._closing:
            self._retry = self._clock.callLater(self._pause, self._try_again)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _try_again(self) -> None:
        self._retry = None
        self._stuck = False
        self._write()
        done = self._asked(self._store.probe)
        done.addCallbacks(self._works, self._fail)
        done.addErrback(lambda failure: self._log.failure("trying the journal", failure=failure))

    def _works(self, _: None) -> None:
        if self._retry is None:  # what was tried before has worked too
            self._log.info("the journal can be written again: prompts are accepted")
            self.trouble = None


def _fire(waiting: Iterable[Deferred[None]], error: str | None = None) -> None:
    for done in waiting:
        if done.called:  # cancelled
            continue
        if error is None:
            done.callback(None)
        else:
            done.errback(JournalError(error))
