"""Large bodies through a port, over real sockets: most of each goes by in the kernel, and nobody can tell."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.endpoints import TCP4ClientEndpoint
from zope.interface import implementer

from comfygate.gate import relay
from comfygate.gate.fast_path import splices, transports
from comfygate.gate.fast_path.pipes import Pipes
from comfygate.gate.fast_path.transports import Dialler, shorten
from comfygate.gate.limits import Limits
from comfygate.gate.pool import UpstreamPool
from comfygate.gate.relay import END, LARGE
from comfygate.gate.server import GateFactory
from comfygate.gate.site import Era, IGateSite, Relay
from comfygate.http1 import Headers, RequestHead
from tests.unit.loopback import Loop, Peer, open_files, pattern

MIB = 1024 * 1024
GET = b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# The head comes with the first of the body, and one more read may come before a splice begins.
SIZES = [END, LARGE - 1, LARGE, LARGE + 1, LARGE + END, LARGE + transports.LARGE, 2 * LARGE + 1, 10 * MIB + 3]


def answer(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size


def post(size: int) -> bytes:
    return b"POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size


@implementer(IGateSite)
class Site:
    """Relays everything."""

    def __init__(self, pool: UpstreamPool) -> None:
        self.pool = pool
        self.era = Era()
        self.options: dict[str, Any] = {}

    def admit(self, head: RequestHead, peer: str) -> Relay:
        return Relay(pool=self.pool, host=b"h", era=self.era, **self.options)

    def error_headers(self, head: RequestHead) -> Headers:
        return ()


class House:
    """A port with one client, and the backend behind it, all in one thread.

    :ivar spliced: bytes for each splice that was begun.
    """

    def __init__(self, loop: Loop, **limits: Any) -> None:
        self.loop = loop
        self.spliced: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        endpoint = TCP4ClientEndpoint(Dialler(loop.reactor), *self._listener.getsockname())
        self.site = Site(UpstreamPool(endpoint, loop.reactor))
        self.factory = GateFactory(self.site, loop.reactor, Limits(**limits))
        self.port = loop.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        shorten(self.port)
        self.client = self.connect()

    def connect(self) -> Peer:
        return self.loop.peer(self.port.getHost().port)

    def ask(self, request: bytes, client: Peer | None = None) -> Peer:
        """Send a request that needs a new connection; give the backend's end, which has read the head."""
        (client or self.client).send(request)
        self._listener.settimeout(0)
        found: list[Peer] = []

        def accepted() -> bool:
            try:
                found.append(self.loop.own(Peer(self._listener.accept()[0])))
            except BlockingIOError:
                return False
            return True

        self.loop.until(accepted)
        self.heard(found[0])
        return found[0]

    def heard(self, backend: Peer) -> bytes:
        """Read a request's head."""

        def whole() -> bool:
            while not backend.received.endswith(b"\r\n\r\n") and backend.read(1):
                pass
            return backend.received.endswith(b"\r\n\r\n")

        self.loop.until(whole)
        return backend.take()

    def close(self) -> None:
        self.port.stopListening()
        self._listener.close()
        self.site.pool.close()
        self.loop.turn(2)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def house(loop: Loop, pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    house = House(loop)

    def noted(source: object, sink: object, size: int, moved: Any) -> Any:
        found = splices.splice(source, sink, size, moved)
        if found is not None:
            house.spliced.append(size)
        return found

    monkeypatch.setattr(relay, "splice", noted)
    yield house
    house.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_download(house: House, size: int) -> None:
    backend = house.ask(GET)
    for _ in range(2):  # the second is one that was decided about before
        body = answer(size) + pattern(size)
        backend.send(body)
        house.loop.until(backend.sent, house.client.got(len(body)))
        assert house.client.take() == body
        house.client.send(GET)
        house.heard(backend)
    assert bool(house.spliced) == (size > LARGE + transports.SMALL)
    assert house.factory.tally.sent == 2 * len(body)
    backend.send(OK)
    house.loop.until(house.client.got(len(OK)))
    assert house.client.take() == OK


@pytest.mark.parametrize("size", SIZES)
def test_an_upload(house: House, size: int) -> None:
    backend = house.ask(post(size))
    for _ in range(2):
        body = pattern(size)
        house.client.send(body + GET)  # what is behind the body is the next request
        house.loop.until(house.client.sent, backend.got(size))
        assert backend.take() == body
        backend.send(OK)
        assert b"GET /large" in house.heard(backend)
        backend.send(OK)
        house.loop.until(house.client.got(2 * len(OK)))
        assert house.client.take() == OK + OK
        house.client.send(post(size))
        house.heard(backend)
    assert bool(house.spliced) == (size > LARGE + transports.SMALL)
    assert house.factory.tally.received == 2 * (size + len(GET)) + 3 * len(post(size))


def test_up_and_down_at_once(house: House) -> None:
    size = 4 * MIB
    body = pattern(size)
    backend = house.ask(post(size))
    house.client.send(body)
    backend.send(answer(size) + body[:-1])
    house.loop.until(house.client.sent, backend.sent, backend.got(size), house.client.got(size))
    assert backend.take() == body
    backend.send(body[-1:])  # an answer that is complete ends the upload
    house.loop.until(house.client.at_end)  # an answer that began before the body's end cannot keep the connection
    head, _, received = house.client.take().partition(b"\r\n\r\n")
    assert received == body and b"Connection: close" in head


def test_what_comes_behind_the_answer_is_nobodys(house: House) -> None:
    size = 2 * MIB
    backend = house.ask(GET)
    backend.send(answer(size) + pattern(size) + b"HTTP/1.1 200 OK\r\n")
    house.loop.until(backend.sent, house.client.got(size + len(answer(size))))
    assert house.client.take() == answer(size) + pattern(size)
    assert house.site.pool.idle == 0
    house.loop.turn(5)
    assert house.client.read() == 0 and not house.client.gone


@pytest.mark.parametrize("framing", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_only_a_length_is_spliced(house: House, framing: bytes) -> None:
    size = 2 * MIB
    backend = house.ask(GET)
    body = pattern(size) if not framing else b"%x\r\n%b\r\n0\r\n\r\n" % (size, pattern(size))
    backend.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + body)
    house.loop.until(backend.sent, house.client.got(size))
    backend.finish()
    house.loop.until(lambda: house.client.read() >= 0 and house.client.received.endswith(b"0\r\n\r\n"))
    assert not house.spliced


@pytest.mark.parametrize("how", ["no descriptors", "enough under way"])
def test_without_pipes(house: House, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def fail(*arguments: object) -> Any:
        raise OSError(errno.EMFILE, "too many")

    if how == "no descriptors":
        monkeypatch.setattr(os, "pipe2", fail)
    else:
        monkeypatch.setattr(splices, "PIPES", Pipes(most=0))
    size = 4 * MIB
    backend = house.ask(GET)
    backend.send(answer(size) + pattern(size))
    house.loop.until(backend.sent, house.client.got(size + len(answer(size))))
    assert house.client.take() == answer(size) + pattern(size)
    assert not house.spliced


def test_urgent_data_holds_nothing_up(house: House) -> None:
    """TCP's urgent byte is no part of the body (RFC 9293, section 3.8.5), and splice(2) stops before it."""
    size, half = 8 * MIB, 4 * MIB
    house.client.send(post(size) + pattern(size)[:half])
    backend = house.ask(b"")
    house.loop.until(house.client.sent, backend.got(half))
    spliced = len(house.spliced)
    assert spliced
    house.client.socket.send(b"!", socket.MSG_OOB)
    house.client.send(pattern(size)[half:])
    house.loop.until(house.client.sent, backend.got(size))
    assert backend.take() == pattern(size)
    assert len(house.spliced) > spliced  # the rest goes by again
    backend.send(OK)
    house.loop.until(house.client.got(len(OK)))
    assert house.client.take() == OK


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EINVAL])
def test_where_nothing_can_be_spliced(house: House, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*arguments: object, **options: object) -> Any:
        raise OSError(number, "not here")

    monkeypatch.setattr(os, "splice", fail)
    size = 4 * MIB
    backend = house.ask(GET)
    for _ in range(2):
        backend.send(answer(size) + pattern(size))
        house.loop.until(backend.sent, house.client.got(size + len(answer(size))))
        assert house.client.take() == answer(size) + pattern(size)
        house.client.send(GET)
        house.heard(backend)
    assert len(house.spliced) == 1  # it is not tried again


def begun(house: House, size: int) -> Peer:
    """Begin a download that the client does not read for now."""
    backend = house.ask(GET)
    backend.send(answer(size) + pattern(size))
    house.loop.until(lambda: backend.sent() or (house.factory._connections and waiting(house)))
    return backend


def waiting(house: House) -> bool:
    """Whether something waits for the client."""
    (connection,) = house.factory._connections
    return connection._full


def test_a_client_that_stops_reading_and_goes_on(house: House) -> None:
    size = 32 * MIB
    backend = begun(house, size)
    left = len(backend.to_send)
    house.loop.turn(20)
    backend.sent()
    assert len(backend.to_send) > left - 8 * MIB and left > 8 * MIB  # no more than the kernel holds
    for _ in range(3):
        house.loop.until(house.client.got(size // 8))
    house.loop.until(backend.sent, house.client.got(size + len(answer(size))))
    assert house.client.take() == answer(size) + pattern(size)
    assert house.spliced
    house.client.send(GET)
    house.heard(backend)


@pytest.mark.parametrize("how", ["finish", "abort"])
@pytest.mark.parametrize("reading", [True, False])
def test_a_backend_that_dies_cuts_the_answer(house: House, how: str, reading: bool) -> None:
    size = 32 * MIB
    if reading:
        backend = house.ask(GET)
        backend.send(answer(size) + pattern(4 * MIB))
        house.loop.until(backend.sent, house.client.got(4 * MIB))
    else:
        backend = begun(house, size)
    getattr(backend, how)()
    house.loop.until(house.client.at_end)
    assert house.client.reset and len(house.client.received) < size
    assert house.site.pool.busy == 0
    assert house.spliced


@pytest.mark.parametrize("held", [True, False])
def test_a_client_that_leaves_a_download(house: House, held: bool) -> None:
    size = 32 * MIB
    backend = begun(house, size)
    if not held:
        house.loop.until(house.client.got(MIB))
    house.client.abort()
    backend.to_send = memoryview(b"")
    house.loop.until(backend.at_end)
    assert house.site.pool.busy == 0 and house.factory.connections == 0


def hold_up(house: House) -> None:
    """Send a part of a body until the backend, which does not read it, takes no more."""
    house.client.send(pattern(32 * MIB))
    (connection,) = house.factory._connections
    house.loop.until(lambda: house.client.sent() or connection._upload_held)
    assert connection._upload_held


@pytest.mark.parametrize("how", ["finish", "abort"])
@pytest.mark.parametrize("held", [True, False])
def test_a_client_that_leaves_an_upload(house: House, how: str, held: bool) -> None:
    size = 64 * MIB
    backend = house.ask(post(size))
    if held:
        hold_up(house)
        house.client.to_send = memoryview(b"")
    else:
        house.client.send(pattern(4 * MIB))
        house.loop.until(house.client.sent, backend.got(4 * MIB))
    getattr(house.client, how)()
    house.loop.until(backend.at_end)  # which reads what was held, so that the end is seen
    assert len(backend.received) < size
    house.loop.until(lambda: house.factory.connections == 0)
    assert house.site.pool.busy == 0 and house.spliced


@pytest.mark.parametrize("how", ["finish", "abort"])
def test_a_backend_that_leaves_an_upload(house: House, how: str) -> None:
    backend = house.ask(post(32 * MIB))
    house.client.send(pattern(4 * MIB))
    house.loop.until(house.client.sent, backend.got(4 * MIB))
    getattr(backend, how)()
    house.loop.until(house.client.got(12))
    assert house.client.received.startswith(b"HTTP/1.1 502")
    house.client.send(pattern(2 * MIB))  # nothing of it goes anywhere
    house.loop.until(house.client.sent)
    house.client.finish()
    house.loop.until(house.client.at_end)
    assert house.client.ended and house.spliced


@pytest.mark.parametrize("held", [True, False])
def test_an_early_answer_to_an_upload(house: House, held: bool) -> None:
    backend = house.ask(post(64 * MIB))
    if held:
        hold_up(house)
        house.client.to_send = memoryview(b"")
    else:
        house.client.send(pattern(2 * MIB))
        house.loop.until(house.client.sent, backend.got(2 * MIB))
    backend.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
    house.loop.until(house.client.got(12))
    assert house.client.received.startswith(b"HTTP/1.1 413")
    house.client.send(pattern(MIB))
    house.loop.until(house.client.sent)
    house.client.finish()
    house.loop.until(house.client.at_end)
    assert house.client.ended and house.client.received.endswith(b"big")
    assert house.spliced


def test_a_silent_backend_is_noticed_in_mid_body(house: House) -> None:
    house.site.options = {"backend_timeout": 0.2}
    backend = house.ask(GET)
    backend.send(answer(32 * MIB) + pattern(4 * MIB))
    house.loop.until(backend.sent, house.client.got(4 * MIB))
    house.loop.until(house.client.at_end)
    assert house.client.reset and house.spliced


def limited(house: House, **limits: float) -> None:
    """Let the client be one with other limits."""
    house.client.finish()
    house.loop.until(house.client.at_end, lambda: not house.factory.connections)
    house.factory.limits = Limits(**limits)  # type: ignore[arg-type]
    house.client = house.connect()


def test_a_client_that_never_reads_on_is_cut_off(house: House) -> None:
    limited(house, stalled=0.2)
    backend = begun(house, 32 * MIB)
    house.loop.until(backend.at_end)
    house.loop.until(house.client.at_end)
    assert house.client.reset and house.spliced


def test_an_upload_that_stops_is_408(house: House) -> None:
    limited(house, body_idle=0.2)
    backend = house.ask(post(32 * MIB))
    house.client.send(pattern(4 * MIB))
    house.loop.until(house.client.sent, backend.got(4 * MIB))
    house.loop.until(backend.at_end, house.client.got(12))
    assert backend.reset and house.client.received.startswith(b"HTTP/1.1 408") and house.spliced


@pytest.mark.parametrize("held", [True, False])
def test_a_port_that_closes_in_mid_body(house: House, held: bool) -> None:
    backend = begun(house, 32 * MIB)
    if not held:
        house.loop.until(house.client.got(MIB))
    stopped: list[None] = []
    house.factory.stop(grace=0.1).addCallback(stopped.append)
    house.loop.until(lambda: stopped, backend.at_end)
    house.loop.until(house.client.at_end)
    assert house.client.reset and house.spliced


def test_nothing_is_left_of_many(house: House) -> None:
    size = LARGE + MIB
    backend = house.ask(GET)
    for n in range(50):
        if n == 10:
            before = open_files()
        backend.send(answer(size) + pattern(size))
        house.loop.until(backend.sent, house.client.got(size + len(answer(size))))
        house.client.take()
        house.client.send(GET)
        house.heard(backend)
    assert len(house.spliced) >= 50 and open_files() == before
