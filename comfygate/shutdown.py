"""What becomes of prompts between a SIGTERM and the end of the daemon."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.control.books import Books
from comfygate.control.reconcile import Reconciler
from comfygate.errors import GateError


class Shutdown:
    """Lets running prompts end, takes back what waits, and lets the rest wait for the next daemon.

    :param reconciler: knows what becomes of a job that a backend loses.
    :param recall: takes back what waits in a backend's own queue.
    :ivar grace: seconds that running prompts are given.
    """

    _log = Logger()

    def __init__(
        self, books: Books, reconciler: Reconciler, recall: Callable[[int], Awaitable[object]], grace: float
    ) -> None:
        self._books = books
        self._reconciler = reconciler
        self._ledger = books.ledger
        self._recall = recall
        self.grace = grace
        self._hurried = False

    async def wind_down(self) -> None:
        """Accept and hand over nothing more; return once no backend holds a prompt, or the grace is over."""
        self._books.close(self.grace)
        running = self._running()
        self._say_what_is_left(running)
        if not self._busy():
            return
        recalls = [self._take_back(gpu_id) for gpu_id in self._busy()]
        try:
            await self._books.until(lambda: self._hurried or not self._busy(), self.grace)
        finally:
            for one in recalls:
                one.cancel()
        self._say_what_ended(running)

    def hurry(self) -> None:
        """End the grace now."""
        if not self._hurried:
            self._log.info("told to stop once more: running prompts are given no more time")
            self._hurried = True
            self._books.changed()

    def let_wait(self) -> None:
        """Whatever our backends still hold waits again: they are about to be ended, and nobody is to blame.

        What others' ComfyUIs hold goes on there, and is looked up by the next daemon.
        """
        for backend in self._books.fleet:
            if backend.owned:
                self._reconciler.lose(backend, blamed=False)

    def _busy(self) -> list[int]:
        ready = self._books.fleet.ready(self._books.fleet.gpu_ids)
        return [backend.gpu_id for backend in ready if self._ledger.held_by(backend.gpu_id)]

    def _running(self) -> list[str]:
        return [held.job.prompt_id for gpu_id in self._busy() for held in self._ledger.suspects(gpu_id)]

    def _take_back(self, gpu_id: int) -> Deferred[None]:
        async def take_back() -> None:
            await self._recall(gpu_id)

        return Deferred.fromCoroutine(take_back()).addErrback(self._not_taken, gpu_id)

    def _not_taken(self, failure: Failure, gpu_id: int) -> None:
        if not failure.check(CancelledError, GateError):
            self._log.failure("taking back what waits on GPU {gpu_id}", failure=failure, gpu_id=gpu_id)

    def _say_what_is_left(self, running: list[str]) -> None:
        held = sum(len(self._ledger.held_by(gpu_id)) for gpu_id in self._books.fleet.gpu_ids)
        waiting = len(self._ledger.waiting) + held - len(running)
        if running:
            self._log.info(
                "stopping: prompts that run: {running}, that wait: {waiting}; those that run get {grace:g} s",
                running=len(running),
                waiting=waiting,
                grace=self.grace,
            )
        elif waiting:
            self._log.info("stopping: no prompt runs; prompts that wait: {waiting}", waiting=waiting)

    def _say_what_ended(self, running: list[str]) -> None:
        held = [one for one in map(self._ledger.held, running) if one is not None]
        elsewhere = sum(not self._books.fleet[one.gpu_id].owned for one in held)
        ended = sum(self._ledger.ended(prompt_id) is not None for prompt_id in running)
        self._log.info(
            "stopping: {ended} ended, {again} will run again after the next start{others}",
            ended=ended,
            again=len(running) - ended - elsewhere,
            others=f", {elsewhere} go on in a ComfyUI that is not ours" if elsewhere else "",
        )


@contextmanager
def hearing_signals(reactor: Any, told: Callable[[], None]) -> Iterator[None]:
    """Call `told` for every further SIGTERM or SIGINT, which the reactor itself would take for a mistake.

    :param reactor: provides IReactorFromThreads.
    """

    def hear(number: int, frame: object) -> None:
        reactor.callFromThread(told)

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, heard in before.items():
            signal.signal(number, heard)
