"""What is known of the daemon's work for people and programs that look: figures, news, logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.logger import globalLogPublisher

from comfygate.backend.devices import nvml_uuids
from comfygate.backend.readings import Devices, Readings, call_in_thread, free_memory
from comfygate.control.books import Books
from comfygate.control.chronicle import Chronicle
from comfygate.control.events import Events
from comfygate.control.logbook import LogBook
from comfygate.control.logs import Logs
from comfygate.control.outcomes import Outcomes
from comfygate.control.status import Status, Telemetry, journal_state
from comfygate.gate.tally import GateFigures
from comfygate.interfaces import IJournal
from comfygate.plan import Plan


class Observation:
    """Whatever looks on and changes nothing, made and joined.

    :param figures: every port as it is now.
    :param gpu_ports: the port that each GPU answers on.
    """

    def __init__(
        self,
        reactor: Any,
        plan: Plan,
        books: Books,
        figures: Callable[[], Sequence[GateFigures]],
        gpu_ports: Mapping[int, int],
        journal: IJournal,
    ) -> None:
        in_thread = partial(call_in_thread, reactor)
        self._books = books
        self.outcomes = Outcomes(plan.gpu_ids, (gate.name for gate in plan.gates), reactor, time.time)
        self.chronicle = Chronicle(plan.gpu_ids, time.time)
        self.devices = Devices(dict(nvml_uuids(plan.devices)))
        self.readings = Readings(reactor, in_thread, self.devices, self._pids)
        self.telemetry = Telemetry(
            books=books,
            outcomes=self.outcomes,
            chronicle=self.chronicle,
            readings=self.readings,
            gates=figures,
            ports=gpu_ports,
            wall_clock=time.time,
            journal=partial(journal_state, journal),
        )
        self.status = Status(self.telemetry)
        self.events = Events(self.status, reactor, self.readings.refresh)
        self._book = LogBook(reactor.callFromThread)
        self.logs = Logs(self._book, books.fleet, reactor, in_thread)
        books.ledger.subscribe(self.outcomes)
        books.ledger.subscribe(self.chronicle)
        books.experience.free_memory = lambda gpu_id: free_memory(self.readings.of(gpu_id))
        books.watch(self._read_memory)

    def start(self) -> None:
        """Follow the log and the backends."""
        globalLogPublisher.addObserver(self._book)
        self._books.fleet.subscribe(self.chronicle)

    def close(self) -> None:
        """Let everybody go who looks on."""
        self.events.close()
        self.logs.close()
        self.readings.close()

    def end(self) -> None:
        """Follow the log no more."""
        globalLogPublisher.removeObserver(self._book)

    def _read_memory(self) -> None:
        """Keep the free memory up to date while a policy looks at it."""
        if any(getattr(gate.policy, "reads_memory", False) for gate in self._books.gates.values()):
            self.readings.refresh()

    def _pids(self) -> dict[int, int]:
        return {backend.gpu_id: backend.pid for backend in self._books.fleet if backend.pid is not None}
