"""The listening ports: each with its gate, its connections and its WebSockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IListeningPort
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.backend.writer import UserWriter
from comfygate.config.settings import Config, GateConfig
from comfygate.cors import Origins
from comfygate.gate.audience import Sessions
from comfygate.gate.bridge import Bridges
from comfygate.gate.cross_origin import CrossOriginSite
from comfygate.gate.gate import Gate, GateFacts
from comfygate.gate.limits import Limits
from comfygate.gate.pool import UpstreamPool
from comfygate.gate.server import GateFactory
from comfygate.gate.site import IGateSite
from comfygate.gate.sockets import tcp_endpoint
from comfygate.gate.tally import GateFigures
from comfygate.gate.uploads import UploadRoom
from comfygate.gate.upstreams import Upstreams
from comfygate.interfaces import IBackend, IBackendListener, IStatusSource

CONNECT_TIME = 5.0
"""Seconds to connect to a backend."""

GRACE = 5.0
"""Seconds that requests under way are given when the daemon stops."""

SPARE = 10.0
"""Seconds that a decision may take besides ``max_wait``."""


class Port:
    """One listening port."""

    def __init__(self, gate: Gate, factory: GateFactory, listening: IListeningPort, number: int) -> None:
        self._number = number
        self._gate = gate
        self._factory = factory
        self._listening = listening

    @property
    def figures(self) -> GateFigures:
        """What it has counted."""
        facts = self._gate.facts
        return GateFigures(facts.name, self._number, facts.gpu_ids, self._factory.tally, self._gate.bridges.clients)

    def status_changed(self) -> None:
        """Another number of prompts waits: tell the WebSocket clients."""
        self._gate.bridges.status_changed()

    def backend_changed(self, backend: IBackend) -> None:
        """A backend has another state: WebSockets may have to look for another."""
        self._gate.bridges.backend_changed(backend)

    def announce(self, client_id: str, message: bytes) -> None:
        """Send a text message of our own to the newest WebSocket with this clientId."""
        self._gate.bridges.announce(client_id, message)

    def stop(self) -> Deferred[Any]:
        """Close it; fires when no client is left."""
        self._listening.stopListening()
        return gatherResults([self._gate.bridges.close(), self._factory.stop(GRACE)], consumeErrors=True)


@implementer(IBackendListener)
class Ports:
    """All ports, and the connections to the backends that they share.

    :param reactor: the daemon's reactor.
    :param status: who counts the prompts that are left, given a port's set.
    :param heard: called when :meth:`is_heard` has changed for a backend.
    """

    def __init__(
        self,
        reactor: Any,
        config: Config,
        fleet: Fleet,
        status: Callable[[tuple[int, ...]], IStatusSource],
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._fleet = fleet
        self._status = status
        self._upstreams = Upstreams(self._backend_pool)
        self._controls: list[UpstreamPool] = []
        self._sessions = Sessions(reactor, heard)
        self._uploads = UploadRoom(reactor)
        self._writer = UserWriter(fleet)
        self._ports: list[Port] = []
        for backend in fleet:
            self._sessions.backend_changed(backend)
            backend.subscribe(self)

    def open(self, gates: Mapping[str, GateConfig], sockets: Mapping[str, socket.socket]) -> None:
        """Serve on sockets that listen already; they are ours from now on.

        :param gates: by name, as `sockets`.
        """
        for name, listening in sockets.items():
            limits = Limits(connections=self._config.max_connections, admit=SPARE + gates[name].max_wait)
            gate = self._gate(gates[name])
            factory = GateFactory(self._site(gate), self._reactor, limits, name=name, tally=gate.bridges.tally)
            port = self._reactor.adoptStreamPort(listening.fileno(), listening.family, factory)
            listening.close()
            self._ports.append(Port(gate, factory, port, gates[name].port))

    def figures(self) -> list[GateFigures]:
        """What each port has counted."""
        return [port.figures for port in self._ports]

    def status_changed(self) -> None:
        """Another number of prompts waits: tell the WebSocket clients."""
        for port in self._ports:
            port.status_changed()

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        self._upstreams.backend_changed(backend)
        # Whoever goes to another backend does so before the others wait, or are served again.
        for port in self._ports:
            port.backend_changed(backend)
        self._sessions.backend_changed(backend)

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    def is_heard(self, gpu_id: int) -> bool:
        """Whether the clients that waited for a backend hear it, now that it is ready."""
        return not self._sessions.returning(gpu_id)

    def announce(self, client_id: str, message: bytes) -> None:
        """Send a text message of our own to the newest WebSocket with this clientId on every port."""
        for port in self._ports:
            port.announce(client_id, message)

    def close(self) -> Deferred[Any]:
        """Close all; fires when no client is left."""
        closing = gatherResults([port.stop() for port in self._ports], consumeErrors=True)
        return closing.addBoth(self._drop_connections)

    def _drop_connections(self, result: object) -> object:
        self._upstreams.close()
        for control in self._controls:
            control.close()
        return result

    def _gate(self, gate: GateConfig) -> Gate:
        config = self._config
        facts = GateFacts(
            name=gate.name,
            gpu_ids=gate.gpu_ids,
            rate=gate.rate,
            burst=gate.burst,
            by_client=gate.limit_by == "client",
            max_wait=gate.max_wait,
            metered=gate.metered,
            max_prompt=config.max_prompt,
            max_body=config.max_body,
            backend_timeout=config.backend_timeout,
        )
        bridges = Bridges(
            self._reactor,
            self._status(gate.gpu_ids),
            fleet=self._fleet,
            gpu_ids=gate.gpu_ids,
            sessions=self._sessions,
        )
        return Gate(
            facts,
            fleet=self._fleet,
            upstreams=self._upstreams,
            control=self._control(),
            bridges=bridges,
            uploads=self._uploads,
            writer=self._writer,
            clock=self._reactor,
        )

    def _site(self, gate: Gate) -> IGateSite:
        allowed = self._config.cors_origins
        return CrossOriginSite(gate, Origins(allowed)) if allowed else gate

    def _control(self) -> UpstreamPool:
        # Each port has its own: slow clients of one must not use up what the others need.
        endpoint = UNIXClientEndpoint(self._reactor, self._config.control_socket)
        pool = UpstreamPool(endpoint, self._reactor, name="the control plane")
        self._controls.append(pool)
        return pool

    def _backend_pool(self, address: tuple[str, int], name: str) -> UpstreamPool:
        return UpstreamPool(tcp_endpoint(self._reactor, *address, CONNECT_TIME), self._reactor, name=name)
