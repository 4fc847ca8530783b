"""What is said once the daemon has begun."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from twisted.logger import Logger
from zope.interface import implementer

from comfygate.changes import gpus
from comfygate.interfaces import IBackend, IBackendListener
from comfygate.model import BackendState, is_gpus_own
from comfygate.plan import Plan


@implementer(IBackendListener)
class Herald:
    """Says where to find what is there, once every GPU answers or has failed to.

    :ivar plan: what there is; may be set to another one.
    """

    _log = Logger()

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._ready: dict[int, bool] = {}
        self._said = False

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        if self._said or backend.state not in (BackendState.READY, BackendState.DOWN, BackendState.FAILED):
            return
        self._ready[backend.gpu_id] = backend.state is BackendState.READY
        self._said = self._ready.keys() >= set(self.plan.gpu_ids)
        if self._said:
            self._log.info("{summary}:\n{addresses}", summary=self._summary(), addresses="\n".join(self._lines()))

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    def _summary(self) -> str:
        missing = sorted(gpu_id for gpu_id, ready in self._ready.items() if not ready)
        if len(missing) == len(self._ready):
            return "ComfyGate listens, but no GPU is ready"
        return "ComfyGate is ready" + (f", but for {gpus(missing)}" if missing else "")

    def _lines(self) -> Iterator[str]:
        interface = self.plan.config.interface
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(interface, interface)  # noqa: S104
        for gate in self.plan.gates:
            behind = gpus(gate.gpu_ids)
            what = behind if is_gpus_own(gate.name) else f"{gate.name}: {behind}"
            yield f"    http://{f'[{host}]' if ':' in host else host}:{gate.port}/  {what}"
        yield f"    comfygatectl --state-dir {shlex.quote(self.plan.config.state_dir)}  looks after it"
