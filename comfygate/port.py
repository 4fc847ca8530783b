"""One listening port: its gate, its connections and its WebSockets."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort

from comfygate.config.settings import Config, GateConfig
from comfygate.cors import Origins
from comfygate.gate.cross_origin import CrossOriginSite
from comfygate.gate.fast_path.transports import shorten
from comfygate.gate.gate import Gate, GateFacts
from comfygate.gate.limits import Limits
from comfygate.gate.plans import Plans
from comfygate.gate.pool import UpstreamPool
from comfygate.gate.server import GateFactory
from comfygate.gate.site import IGateSite
from comfygate.gate.tally import GateFigures
from comfygate.interfaces import IBackend, IStatusSource

GRACE = 5.0
"""Seconds that requests under way are given when a port closes."""

SPARE = 10.0
"""Seconds that a decision may take besides ``max_wait``."""


class Port:
    """One listening port.

    :param control: its own connections to the control plane, which end with it.
    :param listening: the socket, which listens already; it is ours from now on.
    :ivar socket: the same, for a port that takes its place.
    """

    def __init__(
        self,
        reactor: Any,
        config: Config,
        config_of_gate: GateConfig,
        gate: Gate,
        control: UpstreamPool,
        listening: socket.socket,
    ) -> None:
        self.socket = listening
        self._gate = gate
        self._control = control
        self._number = config_of_gate.port
        self._factory = GateFactory(
            _site(gate, config),
            reactor,
            _limits(config, config_of_gate),
            name=config_of_gate.name,
            tally=gate.bridges.tally,
            plans=Plans() if config.is_fast else Plans(0),
        )
        self._port: IListeningPort = reactor.adoptStreamPort(listening.fileno(), listening.family, self._factory)
        if config.is_fast:
            shorten(self._port)

    def behave(self, config: Config, gate: GateConfig, status: IStatusSource) -> None:
        """Take on other values; no connection ends.

        :param status: who counts the prompts of the gate's set.
        """
        self._gate.behave(facts_of(config, gate))
        self._gate.bridges.serve(gate.gpu_ids, status)
        self._factory.site = _site(self._gate, config)
        self._factory.limits = _limits(config, gate)

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
        self._gate.backend_changed()
        self._gate.bridges.backend_changed(backend)

    def announce(self, client_id: str, message: bytes) -> None:
        """Send a text message of our own to the newest WebSocket with this clientId."""
        self._gate.bridges.announce(client_id, message)

    def stop(self, reason: str = "the server is stopping") -> Deferred[Any]:
        """Close it.

        :param reason: what WebSocket clients are told.
        :return: fires when no client is left.
        """
        self._port.stopListening()
        self.socket.close()
        closing = [self._gate.bridges.close(reason=reason), self._factory.stop(GRACE)]
        return gatherResults(closing, consumeErrors=True).addBoth(self._stopped)

    def _stopped(self, result: object) -> object:
        self._control.close()
        return result


def facts_of(config: Config, gate: GateConfig) -> GateFacts:
    """How a port is to behave."""
    return GateFacts(
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


def _limits(config: Config, gate: GateConfig) -> Limits:
    return Limits(connections=config.max_connections, admit=SPARE + gate.max_wait)


def _site(gate: Gate, config: Config) -> IGateSite:
    allowed = config.cors_origins
    return CrossOriginSite(gate, Origins(allowed)) if allowed else gate
