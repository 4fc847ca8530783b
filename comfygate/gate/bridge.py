"""The WebSockets of one gate."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import cast

from autobahn.twisted.websocket import WebSocketClientFactory
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime, IStreamClientEndpoint, ITransport

from comfygate.gate.backend_leg import backend_factory
from comfygate.gate.bridged_client import RESTARTING, Address, BridgedClient
from comfygate.gate.client_leg import client_factory
from comfygate.gate.sessions import Sessions
from comfygate.gate.sockets import tcp_endpoint
from comfygate.gate.tally import Tally
from comfygate.gate.websocket_leg import Ending, Limits
from comfygate.http1 import RequestHead
from comfygate.interfaces import IStatusSource


class Bridges:
    """The WebSockets of one gate.

    :param clock: the reactor.
    :param status: knows how many prompts are left.
    :param sessions: shared by all gates over the same backends.
    :param endpoint: how to reach a backend's address.
    :param tally: counts what clients send and are sent.
    :ivar clients: how many client legs are open.
    """

    def __init__(
        self,
        clock: IReactorTime,
        status: IStatusSource,
        *,
        sessions: Sessions,
        limits: Limits | None = None,
        endpoint: Callable[[str, int], IStreamClientEndpoint] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self.limits = limits or Limits()
        self.clock = clock
        self.status = status
        self.sessions = sessions
        self.clients = 0
        self.client_factory = client_factory(clock, self.limits)
        self.backend_factory: WebSocketClientFactory = backend_factory(clock, self.limits)
        self.endpoint = endpoint or (lambda host, port: tcp_endpoint(clock, host, port, self.limits.open))
        self.closing = False
        self._bridges: set[BridgedClient] = set()
        self._links: set[Hashable] = set()
        self._telling: IDelayedCall | None = None
        self._idle: list[Deferred[None]] = []

    def accept(self, head: RequestHead, gpu_id: int, address: Address) -> Callable[[ITransport, bytes], IProtocol]:
        """Prepare to bridge a client that asks for an upgrade.

        :param head: its request, checked.
        :param gpu_id: which backend.
        :param address: host and port of that backend.
        :return: makes the protocol that the caller connects to the client's
            transport and then feeds all that it has read from it: the head,
            and what followed.
        """

        def successor(transport: ITransport, data: bytes) -> IProtocol:
            bridge = BridgedClient(self, head, gpu_id, address)
            self._bridges.add(bridge)
            bridge.client.factory = self.client_factory
            return cast(IProtocol, bridge.client)

        return successor

    def close(self, code: int = 1012, reason: str = "the server is stopping") -> Deferred[None]:
        """Close all, and accept no more.

        :return: fires when every leg's connection is gone, which takes no
            longer than the longest close time-out.
        """
        self.closing = True
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        for bridge in list(self._bridges):
            bridge.close(Ending(code, reason))
        if not self._bridges and not self._links:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        return idle

    def backend_lost(self, gpu_id: int) -> None:
        """A backend is known to be gone: close the client legs that are on it."""
        for bridge in list(self._bridges):
            if bridge.gpu_id == gpu_id:
                bridge.close(RESTARTING)

    def status_changed(self) -> None:
        """Another number of prompts waits with us: tell the clients, once a turn."""
        if not self.closing and (self._telling is None or not self._telling.active()):
            self._telling = self.clock.callLater(0, self._tell)

    def link_made(self, link: Hashable) -> None:
        """A backend leg exists."""
        self._links.add(link)

    def gone(self, thing: Hashable) -> None:
        """A client or a backend leg is gone."""
        self._links.discard(thing)
        self._bridges.discard(cast("BridgedClient", thing))
        if not self._bridges and not self._links:
            idle, self._idle = self._idle, []
            for deferred in idle:
                deferred.callback(None)

    def _tell(self) -> None:
        remaining = self.status.remaining()
        for bridge in list(self._bridges):
            bridge.tell(remaining)
