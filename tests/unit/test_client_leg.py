"""The server's end of a client's WebSocket, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from comfygate.gate.client_leg import client_factory
from comfygate.gate.fast_path.transports import LARGE, SMALL
from comfygate.gate.tally import Tally
from comfygate.gate.websocket_leg import Ending, Limits
from tests.unit.loopback import Loop

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
EMPTY = b"\x81\x80\0\0\0\0"


class Owner:
    """Counts what the client says."""

    def __init__(self) -> None:
        self.said = 0

    def client_asks(self) -> Deferred[str | None]:
        return succeed(None)

    def client_opened(self) -> None: ...

    def client_said(self, payload: bytes, binary: bool) -> None:
        self.said += 1

    def client_writable(self) -> None: ...

    def client_ponged(self, payload: bytes) -> None: ...

    def client_gone(self, ending: Ending) -> None: ...


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_a_flood_of_tiny_messages_lets_others_have_their_turn(loop: Loop) -> None:
    owner = Owner()
    factory = client_factory(loop.reactor, Limits())
    kind: Any = factory.protocol
    leg = kind(owner, HANDSHAKE, loop.reactor, 5.0, Tally())
    leg.factory = factory
    _, peer = loop.connect(leg)
    leg.dataReceived(HANDSHAKE)
    loop.until(peer.got(1))
    count = LARGE // len(EMPTY)
    peer.send(EMPTY * count)
    while owner.said < count:
        before = owner.said
        peer.sent()
        loop.until(lambda before=before: owner.said > before)  # type: ignore[misc]
        assert owner.said - before <= SMALL // len(EMPTY) + 1
