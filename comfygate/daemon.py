"""The daemon: every part made, joined, started and stopped."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from comfygate.adoption import Adoption, ports_of_gpus
from comfygate.backend.fleet import Fleet
from comfygate.backend.options import Options
from comfygate.backend.readings import call_in_thread
from comfygate.claims import BACKLOG, StateFolder
from comfygate.control.accept import Acceptance
from comfygate.control.books import Books, RemainingWork
from comfygate.control.dispatch import Dispatcher
from comfygate.control.failures import Failures
from comfygate.control.histories import Histories
from comfygate.control.interrupt import Interrupts
from comfygate.control.journal_facts import JournalFacts
from comfygate.control.last_events import LastEvents
from comfygate.control.listings import Listings
from comfygate.control.merged.gpus import AskedGpus
from comfygate.control.merged.job_routes import JobRoutes
from comfygate.control.merged.jobs import JobList
from comfygate.control.merged.masks import Masks
from comfygate.control.merged.object_info import ObjectInfo
from comfygate.control.merged.routes import MergedRoutes
from comfygate.control.metrics import Metrics
from comfygate.control.operations import Operations
from comfygate.control.operator import OperatorRoutes
from comfygate.control.read_ahead import ReadAhead
from comfygate.control.reconcile import Reconciler
from comfygate.control.resettle import Resettlement
from comfygate.control.site import Control, make_site
from comfygate.gpus import Gpus
from comfygate.herald import Herald
from comfygate.journal.journal import Journal
from comfygate.ledger import Ledger
from comfygate.observation import Observation
from comfygate.persistence import Opened, Persistence
from comfygate.plan import Plan
from comfygate.ports import Ports
from comfygate.queue import WaitingJobs
from comfygate.reload import Reload
from comfygate.setups import make_backends
from comfygate.shutdown import Shutdown, hearing_signals
from comfygate.stream.roll import Roll


class Daemon(Service):
    """Backends, control plane and ports, in the order in which they depend on each other.

    :param reactor: the daemon's reactor.
    :param folder: state_dir, locked; released in the end.
    :param sockets: listening sockets by gate name; closed in the end.
    :param opened: the journal's file, which opens again where it was closed; closed in the end.
    :param read: reads the configuration again, and raises ConfigError; called
        in a thread.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        plan: Plan,
        folder: StateFolder,
        sockets: Mapping[str, socket.socket],
        opened: Opened | None,
        read: Callable[[], Plan],
    ) -> None:
        self._reactor = reactor
        self._plan = plan
        self._folder = folder
        self._sockets = sockets
        self._control_port: Any = None
        self._gpu_ports = ports_of_gpus(plan)
        options = Options(reactor, plan.config.state_dir)
        self._fleet = Fleet(make_backends(reactor, plan, options))
        config = plan.config
        ledger = Ledger(plan.gpu_ids, WaitingJobs(config.max_pending, config.max_pending_bytes))
        self._persistence = Persistence(opened, reactor, config, self._outlives_us)
        self._journal = self._persistence.journal
        aliases = self._persistence.aliases()
        self._books = Books(
            self._fleet,
            ledger,
            plan.routings,
            reactor,
            config.prefetch,
            retries=config.retries,
            queue_when_down=config.when_down == "queue",
            aliases=aliases,
        )
        roll = Roll(ledger, aliases, reactor.seconds, time.time)
        ledger.subscribe(roll)
        self._books.flush = self._journal.flush
        self._reconciler = Reconciler(self._books)
        self._ports = Ports(
            reactor,
            config,
            self._fleet,
            lambda gpu_ids: RemainingWork(ledger, gpu_ids, self._books.last_words, self._books.polled),
            self._books.changed,
            roll,
        )
        self._books.watch(self._ports.status_changed)
        self._dispatcher = Dispatcher(
            self._books, self._reconciler, self._journal, self._ports.is_heard, self._ports.hears
        )
        in_thread = partial(call_in_thread, reactor)
        self._object_info = ObjectInfo(self._books, in_thread)
        self._acceptance = Acceptance(self._books, self._reconciler, self._journal, self._object_info)
        self._interrupts = Interrupts(self._books, plan.interrupt_policy)
        self._operations = Operations(
            self._books,
            self._reconciler,
            self._interrupts,
            start_timeout=config.start_timeout,
            remember=self._persistence.remember_drained,
            drained=self._persistence.drained(),
        )
        self._read_ahead = ReadAhead(self._books, wanted=config.read_ahead == "on")
        self._shutdown = Shutdown(self._books, self._reconciler, self._operations.recall, config.shutdown_grace)
        self._failures = Failures(self._fleet, reactor)
        ledger.subscribe(self._failures)
        ledger.subscribe(LastEvents(self._ports.announce, ledger, reactor, time.time))
        self._resettlement = Resettlement(self._books)
        ledger.subscribe(self._resettlement)
        self._histories = Histories(self._books, self._journal)
        self._jobs = JobList(self._books, self._histories)
        ledger.subscribe(self._jobs)
        ledger.subscribe(self._ports.files)
        self._observation = Observation(reactor, plan, self._books, self._ports.figures, self._gpu_ports, self._journal)
        self._books.experience.weights = plan.weights
        self._herald = Herald(plan)
        self._gpus = Gpus(reactor, plan, self._fleet, options, self._operations, self._removed)
        self._reload = Reload(reactor, config.shown, plan, read, in_thread, self._adoption())

    def startService(self) -> None:
        """Open the ports, then start the backends behind them."""
        super().startService()  # type: ignore[no-untyped-call]
        self._observation.start()
        self._persistence.restore(self._books, self._acceptance)
        site = make_site(self._control())
        self._control_port = self._reactor.listenUNIX(
            self._plan.config.control_socket, site, backlog=BACKLOG, mode=0o600
        )
        self._ports.open({gate.name: gate for gate in self._plan.gates}, self._sockets)
        self._reconciler.start()
        self._failures.start()
        self._fleet.subscribe(self._herald)
        self._fleet.subscribe(self._object_info)
        for backend in self._fleet:
            backend.start()

    def reload(self) -> Deferred[Sequence[str]]:
        """Read the configuration again, and apply what has changed; see :meth:`.Reload.reload`."""
        return self._reload.reload()

    async def _stop(self) -> None:
        # Whatever fails in between, the processes are ended and the folder is let go.
        with self._log.failuresHandled("letting prompts end"):
            self._reload.close()
            self._gpus.close()
            self._operations.close()
            await self._shutdown.wind_down()
        with self._log.failuresHandled("closing the ports"):
            self._failures.stop()
            self._object_info.stop()
            self._read_ahead.stop()
            self._observation.close()
            # Clients get their answers and closing handshakes while the backends still run.
            await self._ports.close()
            with suppress(FileNotFoundError):  # somebody has removed its file
                await self._control_port.stopListening()
        with self._log.failuresHandled("noting what waits"):
            # Until here it took note of what ended in the meantime.
            self._reconciler.stop()
            self._shutdown.let_wait()
        with self._log.failuresHandled("ending the backends"):
            await gatherResults([backend.stop() for backend in self._fleet], consumeErrors=True)
        self._observation.end()
        with self._log.failuresHandled("closing the journal"):
            await self._persistence.close()
        self._folder.release()

    def stopService(self) -> Deferred[None]:
        """End everything; fires when nothing is left."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop_hearing())

    async def _stop_hearing(self) -> None:
        with hearing_signals(self._reactor, self._shutdown.hurry):
            await self._stop()

    def _outlives_us(self, gpu_id: int) -> bool:
        """Whether what a GPU holds goes on when the daemon has died."""
        return gpu_id in self._fleet.gpu_ids and not self._fleet[gpu_id].owned

    def _journal_facts(self) -> JournalFacts | None:
        return JournalFacts(self._journal, self._books.ledger) if isinstance(self._journal, Journal) else None

    def _removed(self, gpu_id: int) -> None:
        self._books.ledger.drop(gpu_id)
        self._gpu_ports.pop(gpu_id, None)
        self._books.changed()

    def _adoption(self) -> Adoption:
        return Adoption(
            books=self._books,
            ports=self._ports,
            gpus=self._gpus,
            outcomes=self._observation.outcomes,
            resettlement=self._resettlement,
            interrupts=self._interrupts,
            operations=self._operations,
            shutdown=self._shutdown,
            persistence=self._persistence,
            devices=self._observation.devices,
            herald=self._herald,
            read_ahead=self._read_ahead,
            gpu_ports=self._gpu_ports,
        )

    def _control(self) -> Control:
        seen = self._observation
        return Control(
            books=self._books,
            acceptance=self._acceptance,
            listings=Listings(self._books, self._gpu_ports),
            histories=self._histories,
            interrupts=self._interrupts,
            status=seen.status,
            events=seen.events,
            readings=seen.readings,
            metrics=Metrics(seen.telemetry),
            operations=OperatorRoutes(
                books=self._books,
                operations=self._operations,
                reload=self.reload,
                journal=self._journal_facts(),
                logs=seen.logs,
                wall_clock=time.time,
            ),
            merged=self._merged(),
        )

    def _merged(self) -> MergedRoutes:
        gpus = AskedGpus(self._books)
        jobs = JobRoutes(gpus, self._jobs, self._interrupts, self._books.noted)
        self._fleet.subscribe(jobs)
        masks = Masks(self._fleet, self._ports.files, self._ports.uploads, self._reactor)
        return MergedRoutes(
            gpus=gpus, object_info=self._object_info, jobs=jobs, masks=masks, alias=self._books.aliases.inside
        )
