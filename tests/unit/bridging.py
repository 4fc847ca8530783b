"""Bridged WebSockets between in-memory wires: the client's and the backend's ends are the test's."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha1
from typing import Any

import orjson
from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.gate.audience import Sessions
from comfygate.gate.bridge import Bridges
from comfygate.gate.websocket_leg import Limits
from comfygate.http1 import RequestHead
from comfygate.interfaces import IStatusSource
from comfygate.model import BackendState
from comfygate.stream.roll import Roll
from tests.unit.fakes import FakeBackend

KEY = b"AAAAAAAAAAAAAAAAAAAAAA=="
ASK: tuple[tuple[bytes, bytes], ...] = (
    (b"Host", b"there:8181"),
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", KEY),
)


class Wire:
    """A transport that writes to a list, and that may be full."""

    def __init__(self) -> None:
        self.written = b""
        self.full = False
        self.reading = True
        self.closed: str | None = None
        self.producer: Any = None
        self.protocol: Any = None
        self.no_delay = False

    def write(self, data: bytes) -> None:
        if self.closed is None:
            self.written += data
            if self.full and self.producer is not None:
                self.producer.pauseProducing()

    def writeSequence(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def loseConnection(self) -> None:
        self.closed = self.closed or "closing"

    def abortConnection(self) -> None:
        if self.closed != "gone":
            self.closed = "gone"
            self.protocol.connectionLost(Failure(ConnectionAborted()))

    def lost(self) -> None:
        self.closed = "gone"
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def drain(self) -> None:
        self.full = False
        if self.producer is not None:
            self.producer.resumeProducing()

    def setTcpNoDelay(self, on: bool) -> None:
        self.no_delay = on

    def getPeer(self) -> IAddress:
        return IPv4Address("TCP", "127.0.0.1", 1)

    def getHost(self) -> IAddress:
        return self.getPeer()

    def take(self) -> bytes:
        written, self.written = self.written, b""
        return written


@implementer(IStreamClientEndpoint)
@define(eq=False)
class Backend:
    """An endpoint whose connections the test makes."""

    dials: list[tuple[Any, Deferred[Any]]] = field(factory=list)
    wires: list[Wire] = field(factory=list)
    cancelled: int = 0

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803
        def cancel(deferred: Deferred[Any]) -> None:
            self.cancelled += 1

        deferred: Deferred[Any] = Deferred(cancel)
        self.dials.append((protocolFactory, deferred))
        return deferred

    def refuse(self) -> None:
        self.dials.pop(0)[1].errback(Failure(ConnectionRefusedError()))

    def take(self) -> Wire:
        """Accept the TCP connection."""
        factory, deferred = self.dials.pop(0)
        wire = Wire()
        protocol = factory.buildProtocol(None)
        wire.protocol = protocol
        protocol.makeConnection(wire)
        deferred.callback(protocol)
        self.wires.append(wire)
        return wire

    def accept(self, *frames: bytes) -> Wire:
        """Accept the WebSocket, and send frames at once."""
        wire = self.take()
        self.shake(wire, *frames)
        return wire

    def shake(self, wire: Wire, *frames: bytes) -> None:
        """Accept the WebSocket on a connection."""
        head = wire.take()
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        wire.protocol.dataReceived(b"".join((accepted(key), *frames)))


def accepted(key: bytes) -> bytes:
    accept = b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def text(payload: str | dict[str, Any], masked: bool = False) -> bytes:
    return frame(1, (payload if isinstance(payload, str) else json.dumps(payload)).encode(), masked)


def frame(opcode: int, payload: bytes, masked: bool = False) -> bytes:
    size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
    mask = b"\0\0\0\0" if masked else b""
    return bytes([0x80 | opcode, size[0] | (0x80 if masked else 0)]) + size[1:] + mask + payload


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Take apart what was written, unmasked."""
    found = []
    while data:
        opcode, size, at = data[0] & 15, data[1] & 127, 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        if data[1] & 128:
            mask, at = data[at : at + 4], at + 4
            payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[at : at + size]))
        else:
            payload = data[at : at + size]
        found.append((opcode, payload))
        data = data[at + size :]
    return found


def status(remaining: int) -> dict[str, Any]:
    return {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": remaining}}}}


@implementer(IStatusSource)
class Remaining:
    number = 0

    def __init__(self) -> None:
        self.over: list[str] = []

    def remaining(self) -> int:
        return self.number

    def heard(self, kind: bytes, payload: bytes) -> None:
        if kind != b"executed":
            self.over.append(orjson.loads(payload)["data"]["prompt_id"])


class Gate:
    """A gate's bridges between wires that the test holds.

    :ivar states: its GPUs; become() changes their states.
    :ivar places: where each dial went.
    """

    def __init__(self, clock: Clock, gpus: int = 1, roll: Roll | None = None, **limits: Any) -> None:
        self.roll = roll
        self.clock = clock
        self.backend = Backend()
        self.status = Remaining()
        self.heard = 0
        self.places: list[tuple[str, int]] = []
        self.states = [FakeBackend(n) for n in range(gpus)]
        self.sessions = Sessions(clock, self._hear, delays=lambda failures: 1.0 + failures)
        for n, backend in enumerate(self.states):
            backend.address = ("127.0.0.1", 8188 + n)
            self.sessions.backend_changed(backend)  # type: ignore[arg-type]
        self.bridges = self.another(**limits)

    def another(self, **limits: Any) -> Bridges:
        def endpoint(host: str, port: int) -> Backend:
            self.places.append((host, port))
            return self.backend

        return Bridges(
            self.clock,
            self.status,
            fleet=Fleet(self.states),  # type: ignore[arg-type]
            gpu_ids=range(len(self.states)),
            sessions=self.sessions,
            limits=Limits(**limits),
            endpoint=endpoint,
            roll=self.roll,
        )

    def become(self, state: BackendState, gpu_id: int = 0) -> None:
        self.states[gpu_id].become(state)
        self.bridges.backend_changed(self.states[gpu_id])  # type: ignore[arg-type]
        self.sessions.backend_changed(self.states[gpu_id])  # type: ignore[arg-type]

    def _hear(self) -> None:
        self.heard += 1

    def client(self, target: bytes = b"/ws?clientId=a", rest: bytes = b"", headers: Any = ASK) -> Wire:
        wire = Wire()
        successor = self.bridges.accept(RequestHead(method=b"GET", target=target, headers=headers))
        wire.protocol = successor(wire, b"")  # type: ignore[arg-type]
        wire.protocol.makeConnection(wire)
        wire.protocol.dataReceived(b"\r\nGET / HTTP/1.1\r\nbytes that the gate has parsed\r\n\r\n" + rest)
        return wire

    def open(self, target: bytes = b"/ws?clientId=a") -> tuple[Wire, Wire]:
        client = self.client(target)
        backend = self.backend.accept()
        assert client.take().startswith(b"HTTP/1.1 101 ")
        return client, backend

    def nothing_left(self) -> bool:
        bridges = self.bridges
        left = bridges._bridges or bridges._merged or bridges._listeners or bridges._links or bridges.clients
        return not left and not len(self.sessions)
