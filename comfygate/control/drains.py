"""GPUs that get no further prompts, because the operator or a restart wants it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.control.books import Books
from comfygate.control.recall import Recall
from comfygate.errors import GateError
from comfygate.model import JobState

_AGAIN = 5.0
"""Seconds until a backend that still holds waiting prompts is asked for them again."""

Remember = Callable[[frozenset[int]], None]


class Drains:
    """Keeps :attr:`Books.draining` true, and takes back what waits in the queues of those backends.

    :param remember: is told, after every change, which GPUs the operator wants
        drained, so that the next daemon can be told.
    :param drained: what the last one was told; those that are gone are ignored.
    """

    _log = Logger()

    def __init__(self, books: Books, recall: Recall, remember: Remember, drained: Iterable[int] = ()) -> None:
        self._books = books
        self._recall = recall
        self._remember = remember
        self._wanted = set(drained) & set(books.fleet.gpu_ids)
        self._held: Counter[int] = Counter()
        self._asking: dict[int, Deferred[None]] = {}
        self._asked_at: dict[int, float] = {}
        self._books.draining |= self._wanted
        books.watch(self._ask_for_what_waits)

    def begin(self, gpu_ids: Iterable[int]) -> None:
        """The operator wants these drained."""
        self._wanted.update(gpu_ids)
        self._changed()

    def end(self, gpu_ids: Iterable[int]) -> None:
        """The operator wants these to work again."""
        self._wanted.difference_update(gpu_ids)
        self._changed()

    def forget(self, gpu_id: int) -> None:
        """The backend is gone; the next one with this number is not drained."""
        if gpu_id in self._wanted:
            self.end((gpu_id,))

    @contextmanager
    def held(self, gpu_id: int) -> Iterator[None]:
        """Drain one for as long as the context lasts, whatever the operator and other contexts want."""
        self._held[gpu_id] += 1
        self._apply()
        try:
            yield
        finally:
            self._held[gpu_id] -= 1
            self._apply()

    def close(self) -> None:
        """Ask no backend any more."""
        for asking in list(self._asking.values()):
            asking.cancel()

    def _changed(self) -> None:
        with self._log.failuresHandled("noting which GPUs are drained"):
            self._remember(frozenset(self._wanted))
        self._log.info("drained by the operator: {gpus}", gpus=sorted(self._wanted) or "none")
        self._apply()

    def _apply(self) -> None:
        wanted = self._wanted | set(+self._held)
        for gpu_id in wanted ^ self._books.draining:
            self._asked_at.pop(gpu_id, None)
        self._books.draining.clear()
        self._books.draining.update(wanted)
        self._books.changed()

    def _ask_for_what_waits(self) -> None:
        # Not once only: what was on its way when the drain began arrives later.
        if self._books.closing is None:
            for gpu_id in self._books.draining:
                if self._is_due(gpu_id):
                    self._ask(gpu_id)

    def _is_due(self, gpu_id: int) -> bool:
        if gpu_id in self._asking or not self._books.fleet.ready((gpu_id,)):
            return False
        if self._books.clock.seconds() - self._asked_at.get(gpu_id, float("-inf")) < _AGAIN:
            return False
        return any(held.state in (JobState.SENT, JobState.PENDING) for held in self._books.ledger.held_by(gpu_id))

    def _ask(self, gpu_id: int) -> None:
        self._asked_at[gpu_id] = self._books.clock.seconds()
        asking = Deferred.fromCoroutine(self._take_back(gpu_id))
        self._asking[gpu_id] = asking
        asking.addBoth(self._taken, gpu_id)

    async def _take_back(self, gpu_id: int) -> None:
        await self._recall.everything(gpu_id)

    def _taken(self, result: object, gpu_id: int) -> None:
        del self._asking[gpu_id]
        if isinstance(result, Failure) and not result.check(CancelledError, GateError):
            self._log.failure("draining GPU {gpu_id}", failure=result, gpu_id=gpu_id)
