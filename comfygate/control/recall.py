"""Prompts that wait in a ComfyUI's own queue are taken back into ours, and none is lost or runs twice.

A prompt may start in the very moment in which it is to be taken out.  So the
queue is asked again afterwards, and the history: only what is in neither waits
with us again, where it was in the order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.control.books import Books
from comfygate.control.reconcile import Reconciler
from comfygate.errors import BackendError, BackendUnusable, GateError
from comfygate.interfaces import IComfyUI, IJobListener
from comfygate.ledger import Held
from comfygate.model import Job, JobState

_ARRIVAL = 10.0
"""Seconds that a job may take from our hands into a backend's queue, before it is left there."""

_ON_ITS_WAY = (JobState.SENT, JobState.UNCLEAR)
_MAY_COME_BACK = (*_ON_ITS_WAY, JobState.PENDING)


@implementer(IJobListener)
class Recall:
    """Takes prompts back; one recall at a time for each backend.

    What becomes of a prompt whose removal was not acknowledged, the reconciler
    finds out: it is marked in :attr:`Books.recalled` until it runs or waits.
    """

    _log = Logger()

    def __init__(self, books: Books, reconciler: Reconciler) -> None:
        self._books = books
        self._ledger = books.ledger
        self._reconciler = reconciler
        self._lines: defaultdict[int, DeferredLock] = defaultdict(DeferredLock)
        books.ledger.subscribe(self)

    async def everything(self, gpu_id: int) -> list[str]:
        """Take back whatever waits in a backend's queue and is ours.

        :return: ids of what waits with us again.
        :raises GateError: 503 or 504, if the backend cannot be asked; what was
            not taken back runs there.
        """
        held = (one.job.prompt_id for one in self._ledger.held_by(gpu_id))
        return await self.some(gpu_id, list(filter(self._may_come_back, held)))

    async def some(self, gpu_id: int, prompt_ids: Sequence[str]) -> list[str]:
        """Take back these of the jobs that a backend holds, as :meth:`everything`.

        The last of them waits with us from the moment in which this returns:
        nobody has had the opportunity to hand it over again.
        """
        if not prompt_ids:
            return []
        self._books.fleet.first_ready((gpu_id,))
        line = self._lines[gpu_id]
        await line.acquire()
        try:
            return await self._asked(gpu_id, prompt_ids)
        except BackendError as error:
            self._log.warn("GPU {gpu_id} gives nothing back: {error}", gpu_id=gpu_id, error=error)
            message = f"GPU {gpu_id} did not say what waits in its queue"
            details = "What it had not given back runs there, or waits again if it is lost."
            raise GateError(504, "backend_timeout", message, details, retry_after=1) from None
        finally:
            line.release()
            self._reconciler.look(gpu_id)

    async def _asked(self, gpu_id: int, prompt_ids: Sequence[str]) -> list[str]:
        await self._books.until(lambda: not any(map(self._on_its_way, prompt_ids)), _ARRIVAL)
        client = self._books.fleet.client(gpu_id)
        pending = frozenset((await client.queue()).pending)
        held = [one for one in map(self._ledger.held, prompt_ids) if one is not None and one.gpu_id == gpu_id]
        wanted = [one for one in held if one.job.prompt_id in pending]
        return await self._taken(client, wanted) if wanted else []

    async def _taken(self, client: IComfyUI, wanted: Sequence[Held]) -> list[str]:
        ids = {one.job.prompt_id for one in wanted}
        self._books.recalling |= ids
        try:
            await client.delete(ids)
            queue = await client.queue()
            there = frozenset((*queue.running, *queue.pending))
            gone = [one for one in wanted if one.job.prompt_id not in there]
            return [one.job.prompt_id for one in gone if await self._put_back(client, one)]
        finally:
            self._books.recalling -= ids
            self._books.recalled |= set(filter(self._may_come_back, ids))

    async def _put_back(self, client: IComfyUI, held: Held) -> bool:
        job = held.job
        try:
            over = await client.history(job.prompt_id) is not None
        except BackendUnusable:  # it ended with results that are no JSON
            over = True
        if over or not self._ledger.is_current(held) or job.prompt_id in self._books.removing:
            return False  # what it comes to, others note
        self._log.info(
            "{prompt_id} waits again: GPU {gpu_id} gave it back", prompt_id=job.prompt_id, gpu_id=held.gpu_id
        )
        self._ledger.put_back(job.prompt_id, attempts=job.attempts, deaths=job.deaths)
        self._books.changed()
        return True

    def _on_its_way(self, prompt_id: str) -> bool:
        held = self._ledger.held(prompt_id)
        return held is not None and held.state in _ON_ITS_WAY

    def _may_come_back(self, prompt_id: str) -> bool:
        held = self._ledger.held(prompt_id)
        return held is not None and held.state in _MAY_COME_BACK

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        if state not in _MAY_COME_BACK:
            self._books.recalled.discard(job.prompt_id)

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        self._books.recalled.discard(job.prompt_id)
