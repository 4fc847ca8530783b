"""All listening ports, and what they share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.backend.writer import UserWriter
from comfygate.claims import Place
from comfygate.config.settings import Config, GateConfig
from comfygate.gate.audience import Sessions
from comfygate.gate.bridge import Bridges
from comfygate.gate.fast_path.transports import Dialler
from comfygate.gate.gate import Gate
from comfygate.gate.places import Places
from comfygate.gate.pool import UpstreamPool
from comfygate.gate.sockets import tcp_endpoint
from comfygate.gate.tally import GateFigures
from comfygate.gate.uploads import UploadRoom
from comfygate.gate.upstreams import Upstreams
from comfygate.interfaces import IBackend, IBackendListener, IStatusSource
from comfygate.model import Job, is_gpus_own
from comfygate.port import Port, facts_of
from comfygate.stream.roll import Roll

CONNECT_TIME = 5.0
"""Seconds to connect to a backend."""


@implementer(IBackendListener)
class Ports:
    """All ports, and the connections to the backends that they share.

    :param reactor: the daemon's reactor.
    :param status: who counts the prompts that are left, given a port's set.
    :param heard: called when :meth:`is_heard` or :meth:`hears` has changed for a backend.
    :param roll: whose prompts are whose.
    :ivar uploads: where uploads end.
    :ivar files: where files lie.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        fleet: Fleet,
        status: Callable[[tuple[int, ...]], IStatusSource],
        heard: Callable[[], None] = lambda: None,
        roll: Roll | None = None,
    ) -> None:
        self._roll = roll
        self._reactor = reactor
        self._config = config
        self._fleet = fleet
        self._status = status
        self._upstreams = Upstreams(self._backend_pool)
        self._sessions = Sessions(reactor, heard)
        self.uploads = UploadRoom(reactor)
        self.files = Places(fleet, reactor)
        self._writer = UserWriter(fleet)
        self._ports: dict[str, Port] = {}
        self._places: dict[str, Place] = {}
        self._closing: set[Deferred[Any]] = set()
        for backend in fleet:
            self._sessions.backend_changed(backend)
        fleet.subscribe(self)
        fleet.subscribe(self.files)

    @property
    def sockets(self) -> dict[Place, socket.socket]:
        """What listens now, by interface and port."""
        return {self._places[name]: port.socket for name, port in self._ports.items()}

    def open(self, gates: Mapping[str, GateConfig], sockets: Mapping[str, socket.socket]) -> None:
        """Serve on sockets that listen already; they are ours from now on.

        :param gates: by name, as `sockets`.
        """
        for name, listening in sockets.items():
            with self._log.failuresHandled("opening the port of {name}", name=name):
                self._open(gates[name], listening)

    def follow(
        self,
        config: Config,
        gates: Mapping[str, GateConfig],
        closed: Iterable[str],
        sockets: Mapping[str, socket.socket],
    ) -> None:
        """Serve as a new configuration wants it.

        :param gates: all that there are to be.
        :param closed: those that are gone, or listen elsewhere now: only their
            own connections end.
        :param sockets: what listens for those that are new, or elsewhere.
        """
        self._config = config
        old = [self._ports.pop(name) for name in closed]
        self.open(gates, sockets)
        for name, port in self._ports.items():
            if name not in sockets:
                with self._log.failuresHandled("giving {name} other values", name=name):
                    port.behave(config, gates[name], self._status(gates[name].gpu_ids))
        for port in old:
            with self._log.failuresHandled("closing a port"):
                self._close(port)

    def figures(self) -> list[GateFigures]:
        """What each port has counted."""
        return [port.figures for port in self._ports.values()]

    def status_changed(self) -> None:
        """Another number of prompts waits: tell the WebSocket clients."""
        for port in self._ports.values():
            port.status_changed()

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        self._upstreams.backend_changed(backend)
        # Whoever goes to another backend does so before the others wait, or are served again.
        for name, port in self._ports.items():
            with self._log.failuresHandled("telling {name} of a backend", name=name):
                port.backend_changed(backend)
        self._sessions.backend_changed(backend)

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    def is_heard(self, gpu_id: int) -> bool:
        """Whether the clients that waited for a backend hear it, now that it is ready."""
        return not self._sessions.returning(gpu_id)

    def hears(self, job: Job, gpu_id: int) -> bool:
        """Whether a job's client hears a backend, or is not just about to."""
        roll = self._roll
        if roll is None or not job.client_id or not roll.owns(job.client_id, job.prompt_id):
            return True
        return not self._sessions.dialling(gpu_id, roll.aliases.inside(job.client_id))

    def announce(self, client_id: str, message: bytes) -> None:
        """Send a text message of our own to the newest WebSocket with this clientId on every port."""
        for port in self._ports.values():
            port.announce(client_id, message)

    def close(self) -> Deferred[Any]:
        """Close all; fires when no client is left."""
        closing = gatherResults([*self._closing, *(port.stop() for port in self._ports.values())], consumeErrors=True)
        return closing.addBoth(self._drop_connections)

    def _drop_connections(self, result: object) -> object:
        self._upstreams.close()
        return result

    def _open(self, gate: GateConfig, listening: socket.socket) -> None:
        control = self._control()
        port = Port(self._reactor, self._config, gate, self._gate(gate, control), control, listening)
        self._ports[gate.name] = port
        self._places[gate.name] = (self._config.interface, gate.port)

    def _close(self, port: Port) -> None:
        closing = port.stop("this port has been closed")
        self._closing.add(closing)
        closing.addBoth(lambda _: self._closing.discard(closing))

    def _gate(self, gate: GateConfig, control: UpstreamPool) -> Gate:
        bridges = Bridges(
            self._reactor,
            self._status(gate.gpu_ids),
            fleet=self._fleet,
            gpu_ids=gate.gpu_ids,
            sessions=self._sessions,
            endpoint=self._endpoint,
            roll=None if is_gpus_own(gate.name) else self._roll,
        )
        return Gate(
            facts_of(self._config, gate),
            fleet=self._fleet,
            upstreams=self._upstreams,
            control=control,
            bridges=bridges,
            uploads=self.uploads,
            writer=self._writer,
            places=self.files,
            clock=self._reactor,
        )

    def _control(self) -> UpstreamPool:
        # Each port has its own: slow clients of one must not use up what the others need.
        endpoint = UNIXClientEndpoint(self._reactor, self._config.control_socket)
        return UpstreamPool(endpoint, self._reactor, name="the control plane")

    def _backend_pool(self, address: tuple[str, int], name: str) -> UpstreamPool:
        return UpstreamPool(self._endpoint(*address), self._reactor, name=name)

    def _endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        fast = self._config.is_fast and isIPAddress(host)
        return tcp_endpoint(Dialler(self._reactor) if fast else self._reactor, host, port, CONNECT_TIME)
