"""In-memory wires for the data plane: a transport that records, and an endpoint that connects when told."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer


class Wire(StringTransport):
    """Records what is done to it, and lets a test be the peer.

    :ivar aborted: whether it was reset.
    :ivar half_closed: whether FIN was sent.
    """

    protocol: Any

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(lenient=True)
        self.protocol = protocol
        self.aborted = False
        self.half_closed = False
        self.lost = False
        protocol.makeConnection(self)

    @property
    def paused(self) -> bool:
        return self.producerState == "paused"

    @property
    def closed(self) -> bool:
        """Whether it was closed in order."""
        return self.disconnecting and not self.aborted

    def value(self) -> bytes:
        return self.io.getvalue()

    def clear(self) -> None:
        self.io = BytesIO()

    def take(self) -> bytes:
        data = self.value()
        self.clear()
        return data

    def receive(self, data: bytes) -> None:
        assert not self.paused, "nothing is read from a paused transport"
        self.protocol.dataReceived(data)

    def eof(self) -> None:
        """The peer sends FIN."""
        self.protocol.readConnectionLost()

    def lose(self, reason: Exception | None = None) -> None:
        """The connection ends."""
        if not self.lost:
            self.lost = True
            self.connected = False
            self.protocol.connectionLost(Failure(reason or ConnectionDone()))

    def fill(self) -> None:
        """What was written piles up."""
        assert self.producer is not None
        self.producer.pauseProducing()

    def drain(self) -> None:
        """What was written has gone."""
        assert self.producer is not None
        self.producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True
        if not self.lost:
            self.lose(ConnectionAborted())


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Hands out connections when the test says so, or at once.

    :ivar attempts: connections asked for and not decided yet.
    :ivar wires: the upstream ends of all that were made.
    """

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.error: Exception | None = None
        self.attempts: list[tuple[IProtocolFactory, Deferred[IProtocol]]] = []
        self.wires: list[Wire] = []
        self.count = 0
        self.most = 0

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        attempt: Deferred[IProtocol] = Deferred()
        self.attempts.append((factory, attempt))
        self.count += 1
        self.most = max(self.most, len(self.attempts))
        if self.at_once:
            self.let_in()
        return attempt

    def let_in(self) -> None:
        factory, attempt = self.attempts.pop(0)
        if attempt.called:
            return
        if self.error is not None:
            attempt.errback(self.error)
            return
        protocol: Any = factory.buildProtocol(None)
        self.wires.append(Wire(protocol))
        attempt.callback(protocol)


class Outcome:
    """What a Deferred came to."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.results: list[Any] = []
        deferred.addBoth(self.results.append)

    @property
    def value(self) -> Any:
        assert self.results, "it waits"
        return self.results[0]

    @property
    def waits(self) -> bool:
        return not self.results

    @property
    def error(self) -> Any:
        assert isinstance(self.value, Failure)
        return self.value.value
