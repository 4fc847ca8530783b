"""The daemon: every part made, joined, started and stopped."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger, globalLogPublisher
from zope.interface import implementer

from comfygate.backend.attempt import Setup
from comfygate.backend.commandline import Folders, Program
from comfygate.backend.devices import nvml_uuids
from comfygate.backend.fleet import Fleet
from comfygate.backend.managed import ManagedBackend
from comfygate.backend.options import Options
from comfygate.backend.readings import Devices, Readings, call_in_thread
from comfygate.backend.remote import RemoteBackend
from comfygate.claims import BACKLOG, StateFolder
from comfygate.control.accept import Acceptance
from comfygate.control.books import Books, RemainingWork
from comfygate.control.chronicle import Chronicle
from comfygate.control.dispatch import Dispatcher
from comfygate.control.events import Events
from comfygate.control.failures import Failures
from comfygate.control.histories import Histories
from comfygate.control.interrupt import Interrupts
from comfygate.control.listings import Listings
from comfygate.control.logbook import LogBook
from comfygate.control.logs import Logs
from comfygate.control.metrics import Metrics
from comfygate.control.operations import Operations
from comfygate.control.operator import OperatorRoutes
from comfygate.control.outcomes import Outcomes
from comfygate.control.reconcile import Reconciler
from comfygate.control.site import Control, make_site
from comfygate.control.status import Status, Telemetry
from comfygate.errors import GateError
from comfygate.interfaces import IBackend, IBackendListener, IJournal
from comfygate.journal.none import NullJournal
from comfygate.ledger import Ledger
from comfygate.model import BackendState
from comfygate.plan import Plan
from comfygate.ports import Ports
from comfygate.queue import WaitingJobs
from comfygate.shutdown import Shutdown, hearing_signals


class Daemon(Service):
    """Backends, control plane and ports, in the order in which they depend on each other.

    :param reactor: the daemon's reactor.
    :param folder: state_dir, locked; released in the end.
    :param sockets: listening sockets by gate name; closed in the end.
    """

    _log = Logger()

    def __init__(self, reactor: Any, plan: Plan, folder: StateFolder, sockets: Mapping[str, socket.socket]) -> None:
        self._reactor = reactor
        self._plan = plan
        self._folder = folder
        self._sockets = sockets
        self._control_port: Any = None
        self._fleet = Fleet(make_backends(reactor, plan))
        config = plan.config
        ledger = Ledger(plan.gpu_ids, WaitingJobs(config.max_pending, config.max_pending_bytes))
        self._journal: IJournal = NullJournal()
        self._books = Books(
            self._fleet,
            ledger,
            plan.routings,
            reactor,
            config.prefetch,
            retries=config.retries,
            queue_when_down=config.when_down == "queue",
        )
        self._reconciler = Reconciler(self._books)
        self._ports = Ports(
            reactor, config, self._fleet, lambda gpu_ids: RemainingWork(ledger, gpu_ids), self._books.changed
        )
        self._books.watch(self._ports.status_changed)
        self._dispatcher = Dispatcher(self._books, self._reconciler, self._journal, self._ports.is_heard)
        self._interrupts = Interrupts(self._books, plan.interrupt_policy)
        self._operations = Operations(
            self._books, self._reconciler, self._interrupts, start_timeout=config.start_timeout
        )
        self._shutdown = Shutdown(self._books, self._operations.recall, config.shutdown_grace)
        self._outcomes = Outcomes(plan.gpu_ids, (gate.name for gate in plan.gates), reactor, time.time)
        self._chronicle = Chronicle(plan.gpu_ids, time.time)
        self._failures = Failures(self._fleet, reactor)
        ledger.subscribe(self._failures)
        ledger.subscribe(self._outcomes)
        ledger.subscribe(self._chronicle)
        sensors = Devices(dict(nvml_uuids(plan.devices)))
        self._readings = Readings(reactor, partial(call_in_thread, reactor), sensors, self._pids)
        self._status = Status(self._telemetry())
        self._events = Events(self._status, reactor, self._readings.refresh)
        self._book = LogBook(reactor.callFromThread)
        self._logs = Logs(self._book, self._fleet, reactor, partial(call_in_thread, reactor))

    def startService(self) -> None:
        """Open the ports, then start the backends behind them."""
        super().startService()  # type: ignore[no-untyped-call]
        globalLogPublisher.addObserver(self._book)
        site = make_site(self._control())
        self._control_port = self._reactor.listenUNIX(
            self._plan.config.control_socket, site, backlog=BACKLOG, mode=0o600
        )
        self._ports.open({gate.name: gate for gate in self._plan.gates}, self._sockets)
        self._reconciler.start()
        self._failures.start()
        herald = Herald(self._plan)
        for backend in self._fleet:
            backend.subscribe(herald)
            backend.subscribe(self._chronicle)
            backend.start()

    async def _stop(self) -> None:
        # Whatever fails in between, the processes are ended and the folder is let go.
        with self._log.failuresHandled("letting prompts end"):
            self._operations.close()
            await self._shutdown.wind_down()
        with self._log.failuresHandled("closing the ports"):
            self._failures.stop()
            self._events.close()
            self._logs.close()
            self._readings.close()
            # Clients get their answers and closing handshakes while the backends still run.
            await self._ports.close()
            await self._control_port.stopListening()
        with self._log.failuresHandled("noting what waits"):
            # Until here it took note of what ended in the meantime.
            self._reconciler.stop()
            self._shutdown.let_wait()
        with self._log.failuresHandled("ending the backends"):
            await gatherResults([backend.stop() for backend in self._fleet], consumeErrors=True)
        globalLogPublisher.removeObserver(self._book)
        self._folder.release()

    def stopService(self) -> Deferred[None]:
        """End everything; fires when nothing is left."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop_hearing())

    async def _stop_hearing(self) -> None:
        with hearing_signals(self._reactor, self._shutdown.hurry):
            await self._stop()

    def _pids(self) -> dict[int, int]:
        return {backend.gpu_id: backend.pid for backend in self._fleet if backend.pid is not None}

    def _gpu_ports(self) -> dict[int, int]:
        return {gate.gpu_ids[0]: gate.port for gate in self._plan.gates if gate.name.startswith("gpu-")}

    def _telemetry(self) -> Telemetry:
        return Telemetry(
            books=self._books,
            outcomes=self._outcomes,
            chronicle=self._chronicle,
            readings=self._readings,
            gates=self._ports.figures,
            ports=self._gpu_ports(),
            wall_clock=time.time,
        )

    def _control(self) -> Control:
        return Control(
            books=self._books,
            acceptance=Acceptance(self._books, self._reconciler, self._journal),
            listings=Listings(self._books, self._gpu_ports()),
            histories=Histories(self._books, self._journal),
            interrupts=self._interrupts,
            status=self._status,
            events=self._events,
            readings=self._readings,
            metrics=Metrics(self._telemetry()),
            operations=OperatorRoutes(
                books=self._books,
                operations=self._operations,
                reload=lambda: _Missing().reload(),
                journal=None,
                logs=self._logs,
                wall_clock=time.time,
            ),
        )


class _Missing:
    """What is not joined yet."""

    def __getattr__(self, name: str) -> Any:
        raise GateError(501, "not_available", f"This ComfyGate cannot {name}")


@implementer(IBackendListener)
class Herald:
    """Says where to find what is there, once every GPU answers or has failed to."""

    _log = Logger()

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ready: dict[int, bool] = {}
        self._said = False

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        if self._said or backend.state not in (BackendState.READY, BackendState.DOWN, BackendState.FAILED):
            return
        self._ready[backend.gpu_id] = backend.state is BackendState.READY
        self._said = len(self._ready) == len(self._plan.gpu_ids)
        if self._said:
            self._log.info("{summary}:\n{addresses}", summary=self._summary(), addresses="\n".join(self._lines()))

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    def _summary(self) -> str:
        missing = sorted(gpu_id for gpu_id, ready in self._ready.items() if not ready)
        if len(missing) == len(self._ready):
            return "ComfyGate listens, but no GPU is ready"
        return "ComfyGate is ready" + (f", but for {_gpus(missing)}" if missing else "")

    def _lines(self) -> Iterator[str]:
        interface = self._plan.config.interface
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(interface, interface)  # noqa: S104
        for gate in self._plan.gates:
            gpus = _gpus(gate.gpu_ids)
            what = gpus if gate.name.startswith("gpu-") else f"{gate.name}: {gpus}"
            yield f"    http://{f'[{host}]' if ':' in host else host}:{gate.port}/  {what}"


def _gpus(gpu_ids: Sequence[int]) -> str:
    return f"GPU{'s' if len(gpu_ids) > 1 else ''} {', '.join(map(str, gpu_ids))}"


def make_backends(reactor: Any, plan: Plan) -> list[IBackend]:
    """Make a backend for each GPU; nothing is started yet."""
    options = Options(reactor)
    return [_backend(reactor, plan, gpu_id, options) for gpu_id in plan.gpu_ids]


def _backend(reactor: Any, plan: Plan, gpu_id: int, options: Options) -> IBackend:
    config = plan.config
    overrides = config.overrides(gpu_id)
    if overrides.url is not None:
        return RemoteBackend(reactor, gpu_id, overrides.url, name=overrides.name)
    state = Path(config.state_dir)
    setup = Setup(
        device=plan.devices[gpu_id],
        program=Program(config.comfyui, config.python),
        folders=Folders(
            own=state / f"gpu-{gpu_id}",
            input=Path(config.input_dir),
            output=Path(config.output_dir),
            user=state / "user" if config.simulated else None,
        ),
        arguments=(*config.arguments, *overrides.arguments),
        start_timeout=config.start_timeout,
        stop_grace=config.stop_grace,
        restart_delay=config.restart_delay,
        restart_delay_max=config.restart_delay_max,
        hang_timeout=config.hang_timeout,
        stall_timeout=config.stall_timeout,
        log_size=config.log_size,
        log_files=config.log_files,
    )
    return ManagedBackend(reactor, setup, options)
