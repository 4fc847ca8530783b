"""Keeps the ledger true: compares it with what backends say about their jobs."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.aliases import with_owner
from comfygate.control.books import Books
from comfygate.errors import BackendError, BackendUnusable
from comfygate.history import Outcome, encoded, failed_entry, outcome
from comfygate.interfaces import IBackend, IBackendListener, IComfyUI
from comfygate.ledger import Held, Stranger
from comfygate.model import BackendQueue, BackendState, Job, JobState, RestartCause

MOST_DEATHS = 2
"""A job that was running while two backends died is not tried a third time."""

_GONE = frozenset({BackendState.DOWN, BackendState.FAILED, BackendState.STOPPED})
"""States in which nothing is left of a process of ours: what it held may run again."""

_BLAMED = frozenset({RestartCause.EXITED, RestartCause.HUNG, RestartCause.STALLED})
"""Ends of a backend for which the job that ran there may be to blame."""

_EVERY = 5.0
"""Seconds between looks at a busy backend that says nothing by itself."""


@implementer(IBackendListener)
class Reconciler:
    """Looks at a backend's queue and history whenever it says that they changed.

    A job that left the queue is looked up in the history by its id: the queue
    is asked first, so that a job which ends meanwhile is found in the second.
    """

    _log = Logger()

    def __init__(self, books: Books) -> None:
        self._books = books
        self._ledger = books.ledger
        self._looking: dict[int, Deferred[None]] = {}
        self._again: set[int] = set()
        self._doubted: set[int] = set()  # may have been restarted by someone else since we asked last
        self._timer = LoopingCall(self._look_at_busy)
        self._timer.clock = books.clock
        self._stopped = False

    def start(self) -> None:
        """Follow every backend from now on."""
        self._books.fleet.subscribe(self)
        self._timer.start(_EVERY, now=False)

    def stop(self) -> None:
        """Ask no backend any more."""
        self._stopped = True
        self._timer.stop()
        self._again.clear()
        for looking in list(self._looking.values()):
            looking.cancel()

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        if self._stopped:
            return
        if backend.state is BackendState.READY:
            self.look(backend.gpu_id)
        elif not backend.owned:
            self._doubted.add(backend.gpu_id)
        elif backend.state in _GONE:
            self.lose(backend, blamed=backend.cause in _BLAMED)
        self._books.changed()

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        if not self._stopped:
            self.look(backend.gpu_id)

    def look(self, gpu_id: int) -> None:
        """Compare the ledger with this backend soon; once more if a look is under way."""
        if gpu_id in self._looking:
            self._again.add(gpu_id)
            return
        self._looking[gpu_id] = looking = Deferred.fromCoroutine(self._look(gpu_id))
        looking.addBoth(self._looked, gpu_id)

    def _looked(self, result: object, gpu_id: int) -> None:
        del self._looking[gpu_id]
        if isinstance(result, Failure) and not isinstance(result.value, CancelledError):
            self._log.failure("looking at GPU {gpu_id}", failure=result, gpu_id=gpu_id)
        if gpu_id in self._again:
            self._again.discard(gpu_id)
            self.look(gpu_id)

    def _look_at_busy(self) -> None:
        for backend in self._books.fleet.ready(self._books.fleet.gpu_ids):
            # One whose last event was seen counts no longer for clients; that it has ended is still to be noted.
            if self._ledger.held_by(backend.gpu_id) or self._ledger.remaining(backend.gpu_id):
                self.look(backend.gpu_id)

    async def _look(self, gpu_id: int) -> None:
        if not self._books.fleet.ready((gpu_id,)):
            return
        # Only jobs that were acknowledged before the question can be missing from the answer.
        asked = [held for held in self._ledger.held_by(gpu_id) if held.state is not JobState.SENT]
        suspects = self._ledger.suspects(gpu_id)
        try:
            client = self._books.fleet.client(gpu_id)
            queue = await client.queue()
            for held in self._compare(asked, queue):
                self._left(held, *await self._end(client, held), blamed=held in suspects)
        except BackendError as error:
            self._log.debug("GPU {gpu_id} does not tell its queue: {error}", gpu_id=gpu_id, error=error)
            return
        self._doubted.discard(gpu_id)
        if gpu_id in self._books.fleet:
            self._meet_strangers(gpu_id, queue)
        self._books.changed()

    def _compare(self, asked: Iterable[Held], queue: BackendQueue) -> list[Held]:
        """Note who runs and who waits; return those that left the queue."""
        running, pending = frozenset(queue.running), frozenset(queue.pending)
        left = []
        for held in asked:
            if held.job.prompt_id in running:
                self._settle(held, JobState.RUNNING)
            elif held.job.prompt_id in pending:
                self._settle(held, JobState.PENDING)
            else:
                left.append(held)
        return left

    def _settle(self, held: Held, state: JobState) -> None:
        if self._ledger.is_current(held) and held.state is not state:
            self._ledger.hold(held.job, held.gpu_id, state)

    async def _end(self, client: IComfyUI, held: Held) -> tuple[Outcome | None, bytes | None]:
        """How the backend says that a job ended, and its entry; ``None`` if it knows nothing of it."""
        try:
            entry = await client.history(held.job.prompt_id)
        except BackendUnusable as error:
            # Some nodes leave results that ComfyUI itself cannot write as JSON.
            self._log.warn("{prompt_id} ended in some way: {error}", prompt_id=held.job.prompt_id, error=error)
            reason = str(error)
            return Outcome(JobState.UNKNOWN, reason), failed_entry(held.job, reason, self._books.wall_clock())
        if entry is None:
            return None, None
        return outcome(entry), encoded(with_owner(entry, held.job.client_id))

    def _left(self, held: Held, end: Outcome | None, record: bytes | None, *, blamed: bool) -> None:
        if not self._ledger.is_current(held):
            return
        if end is not None:
            self._books.unwanted.discard(held.job.prompt_id)
            self._ledger.end(held.job.prompt_id, end.state, end.reason, record)
        elif self._ledger.is_finished(held.job.prompt_id):  # its client had it dropped from the history at once
            self._end_as_told(held)
        elif held.job.prompt_id in self._books.recalling:
            return
        elif held.job.prompt_id in self._books.recalled - self._books.removing:
            self._ledger.put_back(held.job.prompt_id, attempts=held.job.attempts, deaths=held.job.deaths)
        elif held.gpu_id in self._doubted:
            self._try_again(held, blamed=blamed)
        elif held.state is JobState.UNCLEAR:
            self._try_again(held, blamed=True, ran=False)
        elif held.job.prompt_id in self._books.removing:
            self._ledger.end(held.job.prompt_id, JobState.CANCELLED)
        else:
            self._log.warn(
                "{prompt_id} is gone from GPU {gpu_id}: someone asked ComfyUI itself to remove it",
                prompt_id=held.job.prompt_id,
                gpu_id=held.gpu_id,
            )
            self._books.fail(held.job.prompt_id, f"it is gone from GPU {held.gpu_id}", JobState.UNKNOWN)

    def _meet_strangers(self, gpu_id: int, queue: BackendQueue) -> None:
        listed = [(item, True) for item in queue.running_items] + [(item, False) for item in queue.pending_items]
        strangers = tuple(
            Stranger(prompt_id=item.prompt_id, number=item.number, running=running, item=item.raw)
            for item, running in listed
            if not self._ledger.knows(item.prompt_id)
        )
        self._ledger.meet(gpu_id, strangers)

    def lose(self, backend: IBackend, *, blamed: bool) -> None:
        """Queue and history of a backend die with its process: the jobs wait again in their old order.

        :param blamed: whether the job that runs may be to blame for that.
        """
        gpu_id = backend.gpu_id
        suspects = self._ledger.suspects(gpu_id)
        for held in self._ledger.held_by(gpu_id):
            ran = held in suspects
            self._try_again(held, blamed=ran and blamed, ran=ran)
        self._ledger.meet(gpu_id, ())

    def _try_again(self, held: Held, *, blamed: bool, ran: bool | None = None) -> None:
        """Let a job that was lost wait again, unless it is over or has cost too many backends.

        :param blamed: whether it may be to blame for the loss.
        :param ran: whether it may have been running; as `blamed` where not given.
        """
        job = held.job
        attempts = job.attempts + (blamed if ran is None else ran)
        deaths = job.deaths + blamed
        if self._ledger.is_finished(job.prompt_id):
            self._end_as_told(held)
        elif job.prompt_id in self._books.unwanted:
            self._books.unwanted.discard(job.prompt_id)
            reason = f"it was interrupted, and GPU {held.gpu_id} was lost before it had said so"
            self._books.fail(job.prompt_id, reason, JobState.CANCELLED)
        elif deaths >= MOST_DEATHS or (blamed and deaths > self._books.retries):
            self._give_up(job, held.gpu_id, deaths)
        else:
            self._books.last_words.forget(job.prompt_id)
            self._log.warn("{prompt_id} waits again: GPU {gpu_id} lost it", prompt_id=job.prompt_id, gpu_id=held.gpu_id)
            self._ledger.put_back(job.prompt_id, attempts=attempts, deaths=deaths)

    def _end_as_told(self, held: Held) -> None:
        """Its client saw a job's last event, and its backend is gone: what that said is how it ended."""
        entry = self._books.last_words.entry(held.job)
        if entry is None:
            reason = f"GPU {held.gpu_id} was lost before it had said how the prompt ended"
            self._books.fail(held.job.prompt_id, reason, JobState.UNKNOWN)
        else:
            end = outcome(entry)
            self._ledger.end(held.job.prompt_id, end.state, end.reason, encoded(entry))

    def _give_up(self, job: Job, gpu_id: int, deaths: int) -> None:
        self._log.error(
            "{prompt_id} failed: it was lost {deaths} times, the last time by GPU {gpu_id}",
            prompt_id=job.prompt_id,
            deaths=deaths,
            gpu_id=gpu_id,
        )
        times = "once, and is not to be tried again" if deaths == 1 else f"{deaths} times"
        self._books.fail(job.prompt_id, f"lost {times}, the last time by GPU {gpu_id}: its ComfyUI died while it ran")
