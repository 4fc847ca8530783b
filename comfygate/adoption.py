"""Every part of a running daemon takes a new configuration on."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from attrs import field, frozen
from twisted.logger import Logger

from comfygate.backend.devices import nvml_uuids
from comfygate.backend.readings import Devices
from comfygate.changes import Changes, Run
from comfygate.claims import claim_ports, make_folders
from comfygate.control.books import Books
from comfygate.control.interrupt import Interrupts
from comfygate.control.operations import Operations
from comfygate.control.outcomes import Outcomes
from comfygate.control.read_ahead import ReadAhead
from comfygate.control.resettle import Resettlement
from comfygate.gpus import Gpus
from comfygate.herald import Herald
from comfygate.model import is_gpus_own
from comfygate.persistence import Persistence
from comfygate.plan import Plan
from comfygate.ports import Ports
from comfygate.shutdown import Shutdown

_log = Logger()


@frozen(kw_only=True)
class Adoption:
    """Provides :class:`comfygate.reload.Adoption` with a daemon's parts.

    :ivar gpu_ports: the port of each GPU, as everybody reads it; changed in place.
    """

    books: Books
    ports: Ports
    gpus: Gpus
    outcomes: Outcomes
    resettlement: Resettlement
    interrupts: Interrupts
    operations: Operations
    shutdown: Shutdown
    persistence: Persistence
    devices: Devices
    herald: Herald
    read_ahead: ReadAhead
    gpu_ports: dict[int, int] = field(factory=dict)

    @property
    def runs(self) -> Mapping[int, Run]:
        """See :class:`comfygate.reload.Adoption`."""
        return self.gpus.runs

    def claim(self, plan: Plan, changes: Changes) -> dict[str, socket.socket]:
        """See :class:`comfygate.reload.Adoption`."""
        make_folders(plan.config)
        opened = [gate for gate in plan.gates if gate.name in changes.opened]
        return claim_ports(plan.config, opened, self.ports.sockets)

    def adopt(self, plan: Plan, changes: Changes, sockets: Mapping[str, socket.socket]) -> None:
        """See :class:`comfygate.reload.Adoption`."""
        added: list[int] = []
        gates = {gate.name: gate for gate in plan.gates}
        # New GPUs are there before a gate has them, and old ones until no gate has them.
        with _log.failuresHandled("preparing the GPUs"):
            added = self.gpus.prepare(plan)
        with _log.failuresHandled("changing the books"):
            self._take_on(plan)
        with _log.failuresHandled("changing the ports"):
            self.ports.follow(plan.config, gates, changes.closed, sockets)
        with _log.failuresHandled("finding a place for what waits"):
            self.resettlement.settle()
        with _log.failuresHandled("changing the GPUs"):
            self.gpus.carry_out(changes, added)
        self.books.changed()

    def _take_on(self, plan: Plan) -> None:
        config, books = plan.config, self.books
        books.gates = {routing.name: routing for routing in plan.routings}
        books.prefetch = config.prefetch
        books.experience.weights = plan.weights
        books.retries = config.retries
        books.queue_when_down = config.when_down == "queue"
        books.ledger.waiting.rebound(config.max_pending, config.max_pending_bytes)
        self.gpu_ports.update(ports_of_gpus(plan))
        self.outcomes.follow(plan.gpu_ids, books.gates)
        self.interrupts.policy = plan.interrupt_policy
        self.operations.start_timeout = config.start_timeout
        self.read_ahead.wanted = config.read_ahead == "on"
        self.shutdown.grace = config.shutdown_grace
        self.persistence.follow(config)
        self.devices.uuids = dict(nvml_uuids(plan.devices))
        self.herald.plan = plan


def ports_of_gpus(plan: Plan) -> dict[int, int]:
    """The port of each GPU."""
    return {gate.gpu_ids[0]: gate.port for gate in plan.gates if is_gpus_own(gate.name)}
