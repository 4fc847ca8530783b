"""The fleet as the configuration wants it: backends come, go, and are started again, and no prompt is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.backend.managed import ManagedBackend
from comfygate.backend.options import Options
from comfygate.changes import Changes, Run, run_of
from comfygate.errors import GateError
from comfygate.interfaces import IBackend, IBackendListener
from comfygate.model import BackendState
from comfygate.plan import Plan
from comfygate.setups import make_backend, make_setup

_BUSY = "restart_under_way"


class Lossless(Protocol):
    """How backends are ended without a loss: see :class:`comfygate.control.operations.Operations`."""

    def restart(self, gpu_ids: Sequence[int]) -> Deferred[None]:
        """Start them again, one after the other, each when its running prompt has ended."""

    def retire(self, gpu_id: int) -> Deferred[None]:
        """End one for good, when its running prompt has ended."""


@implementer(IBackendListener)
class Gpus:
    """Makes of each backend what the newest plan says.

    :param options: shared by all backends.
    :param removed: told when nothing is left of a GPU.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        plan: Plan,
        fleet: Fleet,
        options: Options,
        operations: Lossless,
        removed: Callable[[int], None],
    ) -> None:
        self._reactor = reactor
        self._plan = plan
        self._fleet = fleet
        self._options = options
        self._operations = operations
        self._removed = removed
        self._runs = {gpu_id: run_of(plan, gpu_id) for gpu_id in plan.gpu_ids}
        self._leaving: dict[int, Deferred[None]] = {}
        self._restarting: Deferred[None] | None = None
        self._closed = False
        fleet.subscribe(self)

    @property
    def runs(self) -> Mapping[int, Run]:
        """What each backend runs with, or was started with last."""
        return dict(self._runs)

    def prepare(self, plan: Plan) -> list[int]:
        """Let backends know how they are to run, and make those that are new, without starting them.

        :return: the new ones' gpu_ids, for :meth:`carry_out`.
        """
        self._plan = plan
        added = [gpu_id for gpu_id in plan.gpu_ids if gpu_id not in self._fleet]
        for gpu_id in plan.gpu_ids:
            with self._log.failuresHandled("preparing GPU {gpu}", gpu=gpu_id):
                if gpu_id in added:
                    self._add(gpu_id)
                else:
                    self._reconfigure(self._fleet[gpu_id])
        return added

    def carry_out(self, changes: Changes, added: Sequence[int]) -> None:
        """Begin to end, restart and start what has to be; that goes on by itself, however long prompts run."""
        doing = Deferred.fromCoroutine(self._carry_out(added, in_turn=changes.in_turn))
        doing.addErrback(self._failed, "changing the GPUs")

    def close(self) -> None:
        """Change nothing any more."""
        self._closed = True
        for one in (*self._leaving.values(), self._restarting):
            if one is not None:
                one.cancel()

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`: whoever starts it, it starts as the plan says."""
        if backend.state is BackendState.STARTING and backend.gpu_id in self._plan.gpu_ids:
            self._runs[backend.gpu_id] = run_of(self._plan, backend.gpu_id)

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    async def _carry_out(self, added: Sequence[int], *, in_turn: bool) -> None:
        ending = [self._end(gpu_id) for gpu_id in self._fleet.gpu_ids if self._is_unwanted(gpu_id)]
        for one in ending if in_turn else ():
            await one
        restarting = self._restart_due()
        if in_turn:
            await restarting
        for gpu_id in added:
            if not self._closed and gpu_id in self._fleet and gpu_id not in self._leaving:
                self._fleet[gpu_id].start()

    def _is_unwanted(self, gpu_id: int) -> bool:
        """Whether this backend has no place in the plan: another one may have, with the same number."""
        return gpu_id not in self._plan.gpu_ids or self._runs[gpu_id].url != run_of(self._plan, gpu_id).url

    def _end(self, gpu_id: int) -> Deferred[None]:
        if gpu_id not in self._leaving:
            self._leaving[gpu_id] = leaving = Deferred.fromCoroutine(self._replace(gpu_id))
            leaving.addErrback(self._failed, f"ending GPU {gpu_id}")
            leaving.addBoth(self._left, gpu_id)
            return leaving
        return self._leaving[gpu_id]

    async def _replace(self, gpu_id: int) -> None:
        await self._operations.retire(gpu_id)
        if gpu_id in self._plan.gpu_ids:
            self._add(gpu_id)
            self._fleet[gpu_id].start()
        else:
            self._fleet.remove(gpu_id)
            del self._runs[gpu_id]
            self._removed(gpu_id)
            self._log.info("GPU {gpu} is removed", gpu=gpu_id)

    def _left(self, result: None, gpu_id: int) -> None:
        del self._leaving[gpu_id]

    def _restart_due(self) -> Deferred[None]:
        if self._restarting is None:
            self._restarting = restarting = Deferred.fromCoroutine(self._restart_all())
            restarting.addErrback(self._failed, "restarting")
            restarting.addBoth(self._restarted)
            return restarting
        return self._restarting

    async def _restart_all(self) -> None:
        while not self._closed and self._due():
            try:
                await self._operations.restart(self._due())
            except GateError as error:
                if error.type != _BUSY:
                    # Better one that does not start than all of them.
                    self._log.warn("{error}: correct the configuration, and reload it", error=error)
                    return
                await deferLater(self._reactor, error.retry_after or 1.0)

    def _restarted(self, result: None) -> None:
        self._restarting = None

    def _due(self) -> list[int]:
        return [
            gpu_id
            for gpu_id in self._plan.gpu_ids
            if gpu_id in self._fleet
            and gpu_id not in self._leaving
            and not self._is_unwanted(gpu_id)
            and self._fleet[gpu_id].state is not BackendState.STOPPED
            and self._runs[gpu_id] != run_of(self._plan, gpu_id)
        ]

    def _add(self, gpu_id: int) -> None:
        self._runs[gpu_id] = run_of(self._plan, gpu_id)
        self._fleet.add(make_backend(self._reactor, self._plan, gpu_id, self._options))

    def _reconfigure(self, backend: IBackend) -> None:
        overrides = self._plan.config.overrides(backend.gpu_id)
        if isinstance(backend, ManagedBackend) and overrides.url is None:
            backend.reconfigure(make_setup(self._plan, backend.gpu_id))
        elif self._runs[backend.gpu_id].url == overrides.url:
            backend.name = overrides.name or backend.device

    def _failed(self, failure: Failure, doing: str) -> None:
        if not failure.check(CancelledError):
            self._log.failure("{doing}", failure, doing=doing)
