"""A port without its upstreams: heads, deadlines, refusals, takeovers and the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, ITransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from zope.interface import implementer

from comfygate.errors import GateError
from comfygate.gate.connection import BATCH
from comfygate.gate.limits import Limits
from comfygate.gate.server import MAX_REFUSED, GateFactory
from comfygate.gate.site import Answer, Decision, IGateSite, Upgrade
from comfygate.http1 import Headers, RequestHead
from tests.unit.wires import Wire


@implementer(IGateSite)
class Site:
    """Does what the test says."""

    def __init__(self) -> None:
        self.decide: Callable[[RequestHead], Decision | Deferred[Decision]] = lambda head: Answer(
            status=200, headers=((b"X-Path", head.path),), body=b"hello"
        )
        self.asked: list[tuple[bytes, str]] = []

    def admit(self, head: RequestHead, peer: str) -> Decision | Deferred[Decision]:
        self.asked.append((head.path, peer))
        return self.decide(head)

    def error_headers(self, head: RequestHead) -> Headers:
        return ((b"X-Site", b"yes"),)


class House:
    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.site = Site()
        self.factory = GateFactory(self.site, self.clock, Limits(**limits))
        self.client = self.connect()

    def connect(self) -> Wire:
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        return Wire(protocol)

    def refuse(self, error: GateError) -> None:
        def decide(head: RequestHead) -> Decision:
            raise error

        self.site.decide = decide


GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
LIMITED = GateError(429, "rate_limited", "Too many requests", retry_after=2)


def test_an_answer() -> None:
    house = House()
    house.client.receive(GET)
    head, _, body = house.client.take().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[:2] == [b"HTTP/1.1 200 OK", b"X-Path: /a"]
    assert lines[2].startswith(b"Date: ") and lines[3:] == [b"Content-Length: 5"]
    assert body == b"hello"
    assert house.site.asked == [(b"/a", "192.168.1.1")]
    assert not house.client.disconnecting


def test_an_answer_to_head_has_no_body() -> None:
    house = House()
    house.client.receive(GET.replace(b"GET", b"HEAD"))
    assert house.client.take().endswith(b"Content-Length: 5\r\n\r\n")


def test_an_answer_in_http_1_0() -> None:
    house = House()
    house.client.receive(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"\r\nConnection: keep-alive\r\n" in house.client.take()
    house.client.receive(b"GET / HTTP/1.0\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in house.client.take()
    assert house.client.closed


def test_many_pipelined_requests_are_answered_in_order() -> None:
    house = House()
    house.client.receive(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(3000)))
    house.clock.advance(0)
    data = house.client.take()
    assert [int(part.split(b"\r\n")[0]) for part in data.split(b"X-Path: /")[1:]] == list(range(3000))


def test_a_flood_of_requests_lets_others_have_their_turn() -> None:
    house = House(pipelined=1000)
    count = 3 * BATCH + 1
    house.client.receive(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(count)))
    assert len(house.site.asked) == BATCH and house.client.paused
    other = house.connect()
    other.receive(GET)
    assert other.take()
    house.client.eof()
    assert not house.client.closed
    house.clock.advance(0)
    assert house.client.take().count(b"HTTP/1.1 200 OK") == count
    assert [path for path, _ in house.site.asked if path != b"/a"] == [b"/%d" % number for number in range(count)]
    assert house.client.closed


def test_a_client_that_leaves_between_two_turns() -> None:
    house = House()
    house.client.receive(2 * BATCH * GET)
    house.client.lose()
    house.clock.advance(0)
    assert len(house.site.asked) == BATCH and house.factory.connections == 0


def test_a_head_byte_by_byte() -> None:
    house = House()
    for byte in GET * 2:
        house.client.receive(bytes([byte]))
    assert house.client.take().count(b"hello") == 2


def test_a_refusal_keeps_the_connection() -> None:
    house = House()
    house.refuse(LIMITED)
    house.client.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
    data = house.client.take()
    assert data.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: 2\r\n" in data and b"\r\nX-Site: yes\r\n" in data and b"Connection" not in data
    house.client.receive(b"llo" + GET)
    assert house.client.take().startswith(b"HTTP/1.1 429 ")
    assert not house.client.disconnecting


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 70000\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nExpect: 100-continue\r\n",
    ],
)
def test_a_refusal_of_a_body_not_worth_reading_closes(fields: bytes) -> None:
    house = House()
    house.refuse(LIMITED)
    house.client.receive(b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n")
    assert b"\r\nConnection: close\r\n" in house.client.take()
    assert house.client.half_closed and not house.client.disconnecting


def test_the_rest_of_a_refused_body_must_come_in_time() -> None:
    house = House()
    house.refuse(LIMITED)
    house.client.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
    house.clock.advance(10)
    assert house.client.aborted


def test_a_bad_head_is_answered_and_closed() -> None:
    house = House()
    house.client.receive(b"GET / HTTP/1.1\r\n\r\n" + GET)
    data = house.client.take()
    assert data.startswith(b"HTTP/1.1 400 Bad Request\r\n") and data.count(b"HTTP/1.1") == 2  # one is in the message
    assert house.client.half_closed
    assert house.site.asked == []


def test_a_mistake_of_the_site_is_500() -> None:
    house = House()
    house.site.decide = lambda head: 1 // 0  # type: ignore[return-value]
    house.client.receive(GET)
    assert house.client.take().startswith(b"HTTP/1.1 500 ")


# Decisions that take time.


def test_a_late_decision() -> None:
    house = House()
    decisions: list[Deferred[Decision]] = []

    def decide(head: RequestHead) -> Deferred[Decision]:
        decisions.append(Deferred())
        return decisions[-1]

    house.site.decide = decide
    house.client.receive(GET * 2)
    assert house.client.take() == b"" and len(decisions) == 1
    decisions[0].callback(Answer(status=204))
    assert house.client.take().startswith(b"HTTP/1.1 204 ")
    decisions[1].errback(LIMITED)
    assert house.client.take().startswith(b"HTTP/1.1 429 ")
    house.client.receive(GET)
    house.clock.advance(60)
    assert house.client.take().startswith(b"HTTP/1.1 503 ")
    house.client.receive(GET)
    cancelled: list[bool] = []
    decisions[-1]._canceller = lambda _: cancelled.append(True)
    house.client.lose()
    assert cancelled == [True]


# Time.


def test_the_head_has_ten_seconds_however_it_trickles() -> None:
    house = House()
    for byte in GET[:9]:
        house.client.receive(bytes([byte]))
        house.clock.advance(1)
    assert house.client.value() == b""
    house.client.receive(GET[9:10])
    house.clock.advance(1)
    assert house.client.take().startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert house.client.half_closed


def test_the_first_head_has_ten_seconds_from_the_connections_start() -> None:
    house = House()
    house.clock.advance(9)
    house.client.receive(GET[:5])
    house.clock.advance(1)
    assert house.client.value().startswith(b"HTTP/1.1 408 ")


def test_a_silent_connection_is_closed_silently() -> None:
    house = House()
    house.clock.advance(10)
    assert house.client.value() == b"" and house.client.closed


def test_an_idle_connection_is_closed_silently() -> None:
    house = House()
    house.client.receive(GET)
    house.client.clear()
    house.clock.advance(74)
    assert not house.client.disconnecting
    house.clock.advance(2)
    assert house.client.value() == b"" and house.client.closed


def test_the_second_head_has_ten_seconds_too() -> None:
    house = House()
    house.client.receive(GET)
    house.client.clear()
    house.clock.advance(60)
    house.client.receive(b"G")
    house.clock.advance(9)
    assert house.client.value() == b""
    house.clock.advance(1)
    assert house.client.value().startswith(b"HTTP/1.1 408 ")


def test_one_timer_serves_many_requests() -> None:
    house = House()
    for _ in range(100):
        house.client.receive(GET)
    assert len(house.clock.getDelayedCalls()) == 1


def test_a_client_that_never_takes_its_answer_is_cut_off() -> None:
    house = House()
    house.client.receive(GET)
    house.client.fill()
    house.client.receive(GET)
    house.clock.advance(299)
    assert not house.client.disconnecting
    house.clock.advance(1)
    assert house.client.aborted


def test_closing_does_not_wait_for_ever() -> None:
    house = House()
    house.client.receive(b"GET / HTTP/1.0\r\n\r\n")
    assert house.client.closed
    house.clock.advance(300)
    assert house.client.aborted


# Takeover.


class Successor(Protocol):
    def __init__(self) -> None:
        self.got = b""

    def dataReceived(self, data: bytes) -> None:
        self.got += data


def test_a_takeover_is_clean() -> None:
    house = House()
    successor = Successor()
    calls: list[tuple[Any, bytes]] = []

    def accept(transport: ITransport, data: bytes) -> IProtocol:
        calls.append((transport, data))
        return successor  # type: ignore[return-value]

    house.site.decide = lambda head: Upgrade(accept)
    head = b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    house.client.receive(head[:20])
    house.client.receive(head[20:] + b"\x81\x00")
    assert calls == [(house.client, head + b"\x81\x00")]
    assert successor.got == head + b"\x81\x00" and successor.transport is house.client
    assert house.client.protocol is successor
    assert house.client.producer is None and not house.client.paused
    assert house.factory.connections == 0
    assert house.clock.getDelayedCalls() == []
    assert house.client.value() == b""


def test_a_takeover_may_be_refused() -> None:
    house = House()

    def accept(transport: ITransport, data: bytes) -> IProtocol:
        raise GateError(503, "backend_down", "m", retry_after=1)

    house.site.decide = lambda head: Upgrade(accept)
    house.client.receive(GET)
    assert house.client.take().startswith(b"HTTP/1.1 503 ")
    house.client.receive(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n"))
    assert house.client.take().startswith(b"HTTP/1.1 400 ")


# Many, and none.


def test_too_many_clients_are_told_so() -> None:
    house = House(connections=2)
    second, third = house.connect(), house.connect()
    assert second.value() == b""
    assert third.value().startswith(b"HTTP/1.1 503 ") and b"too_many_connections" in third.value()
    assert third.half_closed
    for _ in range(MAX_REFUSED - 1):
        house.connect()
    assert house.factory.buildProtocol(None) is None
    third.lose()
    assert house.factory.buildProtocol(None) is not None


def test_stopping_lets_requests_end() -> None:
    house = House()
    busy = house.connect()
    decision: Deferred[Decision] = Deferred()
    house.site.decide = lambda head: decision
    busy.receive(GET)
    stopped: list[None] = []
    house.factory.stop(grace=5).addCallback(stopped.append)
    assert house.client.closed and not busy.disconnecting
    assert house.factory.buildProtocol(None) is None
    house.client.lose()
    decision.callback(Answer(status=200, body=b"x"))
    assert b"\r\nConnection: close\r\n" in busy.value() and busy.closed
    assert not stopped
    busy.lose()
    assert stopped == [None]
    assert house.clock.getDelayedCalls() == []


def test_stopping_has_an_end() -> None:
    house = House()
    house.site.decide = lambda head: Deferred()
    house.client.receive(GET)
    stopped: list[None] = []
    house.factory.stop(grace=5).addCallback(stopped.append)
    house.clock.advance(5)
    assert house.client.aborted and stopped == [None]
    assert house.clock.getDelayedCalls() == []


def test_stopping_an_empty_port() -> None:
    house = House()
    house.client.lose()
    stopped: list[None] = []
    house.factory.stop().addCallback(stopped.append)
    assert stopped == [None]
