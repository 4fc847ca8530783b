"""The WebSockets of one gate."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Sequence
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime, IStreamClientEndpoint, ITransport

from comfygate.backend.fleet import Fleet
from comfygate.gate.audience import Sessions
from comfygate.gate.backend_leg import backend_factory
from comfygate.gate.backend_link import BackendLink, LinkOwner
from comfygate.gate.bridged_client import BridgedClient
from comfygate.gate.client_leg import client_factory
from comfygate.gate.handshake import Wanted, client_id_of, is_comfyuis
from comfygate.gate.listener import Listener
from comfygate.gate.merged_client import MergedClient
from comfygate.gate.sessions import Link
from comfygate.gate.sockets import tcp_endpoint
from comfygate.gate.tally import Tally
from comfygate.gate.websocket_leg import SERVICE_RESTART, Ending, Limits
from comfygate.http1 import RequestHead
from comfygate.interfaces import IBackend, IStatusSource
from comfygate.model import BackendState
from comfygate.stream.roll import Roll
from comfygate.websocket import WebSocketClientFactory

_NOWHERE = ("127.0.0.1", 0)


class Bridges:
    """The WebSockets of one gate.

    Each is on the first backend of the gate's set that was ready, or waits for
    one that will be; but ComfyUI's own, where a gate stands for several GPUs,
    are on all of them.

    :param clock: the reactor.
    :param status: knows how many prompts are left.
    :param fleet: all backends.
    :param gpu_ids: the gate's set.
    :param sessions: shared by all gates over the same backends.
    :param endpoint: how to reach a backend's address.
    :param tally: counts what clients send and are sent.
    :param roll: whose prompts are whose, if the gate stands for several GPUs.
    :ivar clients: how many client legs are open.
    """

    def __init__(
        self,
        clock: IReactorTime,
        status: IStatusSource,
        *,
        fleet: Fleet,
        gpu_ids: Sequence[int],
        sessions: Sessions,
        limits: Limits | None = None,
        endpoint: Callable[[str, int], IStreamClientEndpoint] | None = None,
        tally: Tally | None = None,
        roll: Roll | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self.limits = limits or Limits()
        self.clock = clock
        self.status = status
        self.sessions = sessions
        self.clients = 0
        self.client_factory = client_factory(clock, self.limits)
        self._backend_factory: WebSocketClientFactory = backend_factory(clock, self.limits)
        self._endpoint = endpoint or (lambda host, port: tcp_endpoint(clock, host, port, self.limits.open))
        self.closing = False
        self._fleet = fleet
        self._gpu_ids = tuple(gpu_ids)
        self._bridges: dict[BridgedClient, None] = {}  # in the order in which they came
        self._roll = roll
        self._listeners: dict[str, Listener] = {}
        self._merged: set[MergedClient] = set()
        self._links: set[Hashable] = set()
        self._telling: IDelayedCall | None = None
        self._idle: list[Deferred[None]] = []

    def accept(
        self, head: RequestHead, home: Callable[[], int] | None = None
    ) -> Callable[[ITransport, bytes], IProtocol]:
        """Prepare to bridge a client that asks for an upgrade.

        :param head: its request, checked.
        :param home: the GPU that answers this client's other requests, for a custom node's own WebSocket; raises as
            this does.
        :return: makes the protocol that the caller connects to the client's
            transport and then feeds all that it has read from it: the head,
            and what followed.
        :raises GateError: 503, if no backend can serve it, now or later.
        """
        ours = is_comfyuis(head.target)
        gpu_id = self._place(may_wait=ours) if ours or home is None else home()
        if self._roll is not None and ours:
            return self._merging(head, self._roll)

        def successor(transport: ITransport, data: bytes) -> IProtocol:
            bridge = BridgedClient(self, head, gpu_id)
            self._bridges[bridge] = None
            bridge.client.factory = self.client_factory
            return cast(IProtocol, bridge.client)

        return successor

    def _merging(self, head: RequestHead, roll: Roll) -> Callable[[ITransport, bytes], IProtocol]:
        client_id = client_id_of(head.target) or uuid.uuid4().hex  # as ComfyUI does

        def stage() -> Listener:
            if client_id not in self._listeners:
                self._listeners[client_id] = Listener(self, roll, client_id, head, self._gpu_ids)
            return self._listeners[client_id]

        def successor(transport: ITransport, data: bytes) -> IProtocol:
            socket = MergedClient(self, head, stage)
            self._merged.add(socket)
            socket.client.factory = self.client_factory
            return cast(IProtocol, socket.client)

        return successor

    def is_ready(self, gpu_id: int) -> bool:
        """Whether a backend serves requests."""
        return bool(self._fleet.ready((gpu_id,)))

    def close(self, code: int = 1012, reason: str = "the server is stopping") -> Deferred[None]:
        """Close all, and accept no more.

        :return: fires when every leg's connection is gone, which takes no
            longer than the longest close time-out.
        """
        self.closing = True
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        for client in self._clients():
            client.close(Ending(code, reason))
        if self._is_idle():
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        return idle

    def backend_changed(self, backend: IBackend) -> None:
        """A backend of some gate has another state: clients without a backend may have one now, and the reverse.

        Those that stay with this one, their sessions wait with.
        """
        if not self.closing:
            for listener in list(self._listeners.values()):
                listener.backend_changed(backend.gpu_id)
            self._review()

    def serve(self, gpu_ids: Sequence[int], status: IStatusSource) -> None:
        """The gate has this set from now on; clients stay with a backend outside of it as long as that is ready."""
        self._gpu_ids = tuple(gpu_ids)
        self.status = status
        for listener in list(self._listeners.values()):
            listener.serve(self._gpu_ids)
        if not self.closing:
            self._review()
            self.status_changed()

    def announce(self, client_id: str, message: bytes) -> None:
        """Send a text message of our own to the newest socket with this clientId."""
        for bridge in reversed(self._bridges):
            if bridge.client_id == client_id and bridge.announce(message):
                return

    def status_changed(self) -> None:
        """Another number of prompts waits with us: tell the clients, once a turn."""
        if not self.closing and (self._telling is None or not self._telling.active()):
            self._telling = self.clock.callLater(0, self._tell)

    def link(self, owner: LinkOwner, wanted: Wanted, gpu_id: int, gone: Callable[[Link, Ending], None]) -> BackendLink:
        """A leg to a backend, not yet dialled; :meth:`close` waits for its end.

        :param gone: see :class:`comfygate.gate.backend_link.BackendLink`.
        """

        def link_gone(one: Link, ending: Ending) -> None:
            gone(one, ending)
            self.gone(link)

        address = self._fleet[gpu_id].address or _NOWHERE
        link = BackendLink(
            owner,
            wanted,
            address,
            link_gone,
            endpoint=self._endpoint(*address),
            factory=self._backend_factory,
            clock=self.clock,
            limits=self.limits,
        )
        self._links.add(link)
        return link

    def gone(self, thing: Hashable) -> None:
        """A client or a backend leg is gone."""
        self._links.discard(thing)
        self._bridges.pop(cast("BridgedClient", thing), None)
        self._merged.discard(cast("MergedClient", thing))
        if self._is_idle():
            idle, self._idle = self._idle, []
            for deferred in idle:
                deferred.callback(None)

    def dissolved(self, client_id: str) -> None:
        """A listener has no socket any more."""
        del self._listeners[client_id]

    def _clients(self) -> list[BridgedClient | MergedClient]:
        return [*self._bridges, *self._merged]

    def _is_idle(self) -> bool:
        return not self._bridges and not self._merged and not self._links

    def _review(self) -> None:
        ready = self._fleet.ready(self._gpu_ids)
        for bridge in list(self._bridges):
            if ready and not self._fleet.ready((bridge.gpu_id,)):
                bridge.move(ready[0].gpu_id)
        if all(self._fleet[gpu_id].state is BackendState.FAILED for gpu_id in self._gpu_ids):
            for client in self._clients():
                client.close(Ending(SERVICE_RESTART, self._given_up()))

    def _place(self, *, may_wait: bool) -> int:
        for backend in self._fleet.ready(self._gpu_ids):
            return backend.gpu_id
        for gpu_id in self._gpu_ids:
            if may_wait and self._fleet[gpu_id].state is not BackendState.FAILED:
                return gpu_id
        raise self._fleet.unavailable(self._gpu_ids)

    def _given_up(self) -> str:
        gpus = ", ".join(map(str, self._gpu_ids))
        return f"GPU{'s' if len(self._gpu_ids) > 1 else ''} {gpus} failed to start too often"

    def _tell(self) -> None:
        remaining = self.status.remaining()
        for bridge in list(self._bridges):
            bridge.tell(remaining)
        for listener in list(self._listeners.values()):
            listener.tell(remaining)
