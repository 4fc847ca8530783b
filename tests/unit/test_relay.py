"""One exchange after another, over in-memory wires: what each side is told, and when."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock
from zope.interface import implementer

from comfygate.errors import GateError
from comfygate.gate.limits import Limits
from comfygate.gate.pool import UpstreamPool
from comfygate.gate.server import GateFactory
from comfygate.gate.site import Decision, IGateSite, Relay
from comfygate.http1 import Headers, RequestHead
from tests.unit.wires import Endpoint, Wire


@implementer(IGateSite)
class Site:
    """Relays everything, unless told otherwise."""

    def __init__(self, pool: UpstreamPool) -> None:
        self.pool = pool
        self.options: dict[str, Any] = {}
        self.heads: list[RequestHead] = []

    def admit(self, head: RequestHead, peer: str) -> Decision | Deferred[Decision]:
        self.heads.append(head)
        return Relay(pool=self.pool, host=b"127.0.0.1:9", **self.options)

    def error_headers(self, head: RequestHead) -> Headers:
        return ((b"X-Site", b"yes"),)


class House:
    """A port with one client, in front of one pool."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.endpoint = Endpoint()
        self.pool = UpstreamPool(self.endpoint, self.clock, name="GPU 0")
        self.site = Site(self.pool)
        self.factory = GateFactory(self.site, self.clock, Limits(**limits))
        self.client = self.connect()

    def connect(self) -> Wire:
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        return Wire(protocol)

    def ask(self, head: bytes = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") -> Wire:
        """Send a request; give the upstream's end."""
        self.client.receive(head)
        return self.up

    @property
    def up(self) -> Wire:
        return self.endpoint.wires[-1]

    def told(self) -> dict[str, Any]:
        """The gate's own answer, as JSON."""
        error: dict[str, Any] = json.loads(self.client.take().partition(b"\r\n\r\n")[2])["error"]
        return error


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POST = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
CHUNKED_POST = b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def lines(data: bytes) -> list[bytes]:
    return data.partition(b"\r\n\r\n")[0].split(b"\r\n")


# Heads.


def test_the_request_is_passed_on() -> None:
    house = House()
    house.site.options = {
        "drop_headers": frozenset({b"origin", b"x-gate"}),
        "extra_headers": ((b"X-Gate", b"fast"), (b"Origin", b"http://127.0.0.1:9")),
    }
    house.ask(
        b"GET /a%2Fb?c=d HTTP/1.1\r\nhOst: me:1\r\nX-a: 1\r\nOrigin: http://me:1\r\nX-Gate: forged\r\n"
        b"Connection: keep-alive, X-Hop\r\nX-Hop: h\r\nx-A: 2\r\nTE: trailers\r\n\r\n"
    )
    assert lines(house.up.take()) == [
        b"GET /a%2Fb?c=d HTTP/1.1",
        b"Host: 127.0.0.1:9",
        b"X-a: 1",
        b"x-A: 2",
        b"X-Gate: fast",
        b"Origin: http://127.0.0.1:9",
        b"X-Forwarded-For: 192.168.1.1",
        b"X-Forwarded-Host: me:1",
        b"X-Forwarded-Proto: http",
    ]


def test_what_another_proxy_said_is_kept() -> None:
    house = House()
    house.ask(
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: public\r\n\r\n"
    )
    assert lines(house.up.take())[2:] == [
        b"X-Forwarded-For: 1.2.3.4",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: public",
        b"X-Forwarded-For: 192.168.1.1",
    ]


def test_never_more_headers_than_the_backend_takes() -> None:
    house = House()
    house.ask(b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 127 + b"\r\n")
    assert len(lines(house.up.take())) == 1 + 128


def test_the_answer_is_passed_on() -> None:
    house = House()
    house.site.options = {"answer_headers": ((b"X-Site", b"s"),)}
    house.ask()
    house.up.receive(
        b"HTTP/1.1 207 Multi\r\nSet-Cookie: a\r\nKeep-Alive: 5\r\nConnection: keep-alive\r\nset-cookie: b\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    assert house.client.take() == (
        b"HTTP/1.1 207 Multi\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 3\r\nX-Site: s\r\n\r\nabc"
    )
    assert house.pool.idle == 1 and not house.client.disconnecting


def test_a_connection_is_used_for_the_next_request() -> None:
    house = House()
    for _ in range(3):
        house.ask().receive(OK)
    assert house.endpoint.count == 1
    assert house.client.take().count(b"200 OK") == 3
    assert house.factory.tally.answered == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"more",
    ],
)
def test_a_connection_that_is_not_fit_for_more_is_not_kept(answer: bytes) -> None:
    house = House()
    house.ask().receive(answer)
    assert house.pool.idle == 0 and house.up.aborted
    assert house.client.take().endswith(b"\r\n\r\nok")
    assert not house.client.disconnecting


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
def test_answers_without_a_body(method: bytes, answer: bytes) -> None:
    house = House()
    house.ask(b"%b / HTTP/1.1\r\nHost: h\r\n\r\n" % method).receive(answer)
    assert house.client.take() == answer
    assert house.pool.idle == 1


def test_interim_answers_are_passed_on_but_not_to_http_1_0() -> None:
    house = House()
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    house.ask().receive(interim + OK)
    assert house.client.take() == interim + OK
    house.ask(b"GET / HTTP/1.0\r\nExpect: 100-continue\r\nConnection: keep-alive\r\n\r\n")
    assert b"Expect" not in house.up.take()
    house.up.receive(interim + OK)
    assert house.client.take() == OK.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        b"HTTP/1.1 999 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70000,
    ],
)
def test_garbage_is_answered_with_502(answer: bytes) -> None:
    house = House()
    house.ask().receive(answer)
    assert house.up.aborted
    data = house.client.take()
    assert b"HTTP/1.1 502 Bad Gateway\r\n" in data and b"backend_failed" in data and b"X-Site: yes" in data
    assert not house.client.disconnecting


def test_an_answer_head_in_pieces() -> None:
    house = House()
    house.ask()
    for byte in OK:
        house.up.receive(bytes([byte]))
    assert house.client.take() == OK


# Bodies.


def test_chunks_stay_chunks() -> None:
    house = House()
    up = house.ask()
    up.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext\r\nab")
    up.receive(b"c\r\n1\r\nd\r\n")
    up.receive(b"0\r\nTrailer: x\r\n\r\n")
    assert house.client.take() == (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
    )
    assert house.pool.idle == 1


def test_http_1_0_gets_no_chunks() -> None:
    house = House()
    house.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    house.up.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert house.client.take() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
    assert house.client.closed


def test_a_body_that_ends_with_the_connection_becomes_chunks() -> None:
    house = House()
    up = house.ask()
    up.receive(b"HTTP/1.1 200 OK\r\n\r\nabc")
    up.lose()
    assert house.client.take() == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert not house.client.disconnecting


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", None),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", ConnectionLost()),
    ],
)
def test_a_cut_answer_never_ends_as_a_clean_one(answer: bytes, reason: Exception | None) -> None:
    house = House()
    up = house.ask()
    up.receive(answer)
    up.lose(reason)
    assert house.client.aborted
    assert not house.client.take().endswith(b"0\r\n\r\n")


def test_broken_chunks_cut_the_answer() -> None:
    house = House()
    house.ask().receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX")
    assert house.client.aborted and house.up.aborted


def test_an_upload_by_length() -> None:
    house = House()
    up = house.ask(POST + b"he")
    assert up.take().endswith(b"\r\n\r\nhe")
    house.client.receive(b"llo" + b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
    assert up.take() == b"llo"
    up.receive(OK)
    assert house.client.take() == OK
    assert up.take().startswith(b"GET /next ")


def test_an_upload_in_chunks() -> None:
    house = House()
    up = house.ask(CHUNKED_POST + b"3;x\r\nabc\r\n1\r\nd\r\n")
    head, _, body = up.take().partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked\r\n" in head
    assert body == b"4\r\nabcd\r\n"
    house.client.receive(b"0\r\nT: x\r\n\r\n")
    assert up.take() == b"0\r\n\r\n"
    house.client.receive(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
    assert up.take() == b""
    up.receive(OK)
    assert up.take().startswith(b"GET /next ")


def test_broken_chunks_of_the_client_are_refused() -> None:
    house = House()
    up = house.ask(CHUNKED_POST + b"3\r\nabc!")
    assert up.aborted
    assert b" 400 " in house.client.value() and house.told()["type"] == "bad_request"
    assert house.client.half_closed


def test_the_body_waits_for_the_connection() -> None:
    house = House()
    house.endpoint.at_once = False
    house.client.receive(POST + b"hello")
    house.client.receive(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
    house.endpoint.let_in()
    assert house.up.take().endswith(b"\r\n\r\nhello")


# Back-pressure.


def test_a_slow_reader_pauses_the_upstream() -> None:
    house = House()
    up = house.ask()
    up.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
    house.client.fill()
    assert up.paused
    house.client.drain()
    assert not up.paused
    up.receive(b"cdefghij")
    assert house.pool.idle == 1


def test_a_pooled_connection_is_not_left_paused() -> None:
    house = House()
    up = house.ask()
    house.client.fill()
    house.up.producerState = "producing"  # the kernel had it already
    up.receive(OK)
    assert not up.paused and house.pool.idle == 1


def test_a_slow_upstream_pauses_the_client() -> None:
    house = House()
    up = house.ask(POST + b"he")
    up.fill()
    assert house.client.paused
    up.drain()
    assert not house.client.paused
    up.fill()
    up.receive(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert not house.client.paused


def test_no_further_request_while_answers_pile_up() -> None:
    house = House()
    up = house.ask()
    up.take()
    house.client.fill()
    house.client.receive(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
    house.up.producerState = "producing"
    up.receive(OK)
    assert up.take() == b""
    house.client.drain()
    assert up.take().startswith(b"GET /next ")


def test_what_comes_before_its_turn_is_bounded() -> None:
    house = House(pipelined=100_000)
    up = house.ask()
    request = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 7000 + b"\r\n\r\n"
    sent = 1
    while not house.client.paused:
        house.client.receive(request)
        sent += 1
    assert sent * len(request) < 120_000
    for _ in range(sent):
        up.receive(OK)
    assert house.client.take() == OK * sent
    assert not house.client.paused


# Early answers.


def test_an_early_answer_ends_the_upload() -> None:
    house = House()
    up = house.ask(POST.replace(b": 5", b": 500000") + b"he")
    up.receive(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
    assert up.aborted
    assert house.client.take() == b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"
    assert house.client.half_closed and not house.client.disconnecting
    house.client.receive(b"x" * 1000)
    house.client.protocol.writeConnectionLost()
    house.clock.advance(1.9)
    assert not house.client.aborted
    house.clock.advance(0.2)
    assert house.client.aborted


def test_lingering_ends_when_the_client_closes() -> None:
    house = House()
    house.ask(POST).receive(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    house.client.eof()
    assert house.client.closed


def test_lingering_reads_only_so_much() -> None:
    house = House(linger_size=1000)
    house.ask(POST).receive(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    house.client.receive(b"x" * 1001)
    assert house.client.paused


def test_an_answer_that_begins_early_may_outlast_the_upload() -> None:
    house = House()
    up = house.ask(POST + b"he")
    up.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
    house.client.receive(b"llo")
    assert up.take().endswith(b"llo")
    up.receive(b"k")
    assert b"Connection: close" in house.client.value()
    assert house.client.closed
    assert house.pool.idle == 1


def test_expect_continue_is_the_backends_to_decide() -> None:
    house = House()
    up = house.ask(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert b"\r\nExpect: 100-continue\r\n" in up.take()
    up.receive(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert house.client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    house.client.receive(b"hello")
    assert up.take() == b"hello"
    up.receive(OK)
    assert house.client.take() == OK


@pytest.mark.parametrize("head", [POST + b"hello", CHUNKED_POST + b"5\r\nhello\r\n0\r\n\r\n"])
def test_too_large_a_body(head: bytes) -> None:
    house = House()
    house.site.options = {"max_body": 4}
    house.client.receive(head)
    assert house.client.value().startswith(b"HTTP/1.1 413 ")
    assert house.told()["type"] == "body_too_large"
    house.site.options = {"max_body": 5}
    house.client = house.connect()
    house.ask(head).receive(OK)
    assert house.client.take() == OK


# Failures.


def test_no_connection_is_502() -> None:
    house = House()
    house.endpoint.error = ConnectionRefusedError()
    house.client.receive(POST + b"hello" + b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    data = house.client.take()
    assert data.count(b"HTTP/1.1 502 Bad Gateway\r\n") == 2  # the body was read, and the next request answered
    assert b"was not sent" in data and not house.client.disconnecting


def test_a_lost_connection_is_502() -> None:
    house = House()
    house.ask().lose()
    assert house.client.value().startswith(b"HTTP/1.1 502 ")
    assert "may have been carried out" in house.told()["details"]
    assert house.endpoint.count == 1


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_a_stale_connection_is_replaced_once(method: bytes) -> None:
    house = House()
    house.ask().receive(OK)
    house.client.take()
    stale = house.up
    house.ask(b"%b / HTTP/1.1\r\nHost: h\r\n\r\n" % method)
    stale.lose()
    assert house.endpoint.count == 2
    assert house.up.take().startswith(method)
    house.up.lose()
    assert house.client.value().startswith(b"HTTP/1.1 502 ")
    assert house.endpoint.count == 2


@pytest.mark.parametrize(
    "head", [POST + b"hello", b"DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", POST.replace(b"POST", b"GET") + b"hello"]
)
def test_what_may_have_been_done_is_never_sent_again(head: bytes) -> None:
    house = House()
    house.ask().receive(OK)
    house.client.take()
    house.ask(head).lose()
    assert house.endpoint.count == 1
    assert house.client.value().startswith(b"HTTP/1.1 502 ")


def test_no_retry_once_anything_was_heard() -> None:
    house = House()
    house.ask().receive(OK)
    house.client.take()
    up = house.ask()
    up.receive(b"HTTP")
    up.lose()
    assert house.endpoint.count == 1
    assert house.client.value().startswith(b"HTTP/1.1 502 ")


def test_the_backend_is_ended_under_way() -> None:
    house = House()
    house.ask()
    house.pool.close()
    assert house.client.value().startswith(b"HTTP/1.1 502 ")
    house.client.clear()
    house.client.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert house.client.value().startswith(b"HTTP/1.1 502 ")


# Clients that leave.


def test_the_client_leaving_cancels_the_request() -> None:
    house = House()
    up = house.ask()
    house.client.lose()
    assert up.aborted and house.pool.busy == 0 and house.factory.connections == 0


def test_the_client_leaving_while_it_waits_for_a_connection() -> None:
    house = House()
    house.endpoint.at_once = False
    house.client.receive(POST)
    house.client.lose()
    assert house.pool.waiting == 0
    house.endpoint.let_in()
    assert house.up.take() == b"" and house.pool.idle == 1


def test_a_half_closed_client_gets_its_answer() -> None:
    house = House()
    up = house.ask(POST + b"hello")
    house.client.eof()
    assert not up.aborted
    up.receive(OK)
    assert house.client.take() == OK
    assert house.client.closed


def test_a_half_closed_client_gets_all_its_answers() -> None:
    house = House()
    house.endpoint.at_once = False
    house.client.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + POST + b"hello")
    house.client.eof()
    house.endpoint.let_in()
    house.up.receive(OK)
    house.up.receive(OK)
    assert house.client.take() == OK + OK
    assert house.client.closed


@pytest.mark.parametrize("at_once", [True, False])
def test_half_closed_in_the_middle_of_a_body(at_once: bool) -> None:
    house = House()
    house.endpoint.at_once = at_once
    house.client.receive(POST + b"he")
    house.client.eof()
    if not at_once:
        house.endpoint.let_in()
    assert house.up.aborted and house.client.aborted


# Time.


def test_a_silent_backend_is_504() -> None:
    house = House()
    house.site.options = {"backend_timeout": 300.0}
    house.client.receive(POST)
    house.clock.advance(50)
    house.client.receive(b"hello")
    house.clock.advance(299)
    assert house.client.value() == b""
    house.clock.advance(2)
    assert house.client.value().startswith(b"HTTP/1.1 504 ") and house.up.aborted
    assert house.told()["type"] == "backend_timeout"


def test_a_backend_that_stops_in_mid_answer() -> None:
    house = House()
    up = house.ask()
    house.clock.advance(200)
    up.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
    house.clock.advance(200)
    up.receive(b"c")
    house.clock.advance(299)
    assert not house.client.aborted
    house.clock.advance(2)
    assert house.client.aborted and up.aborted


def test_a_body_that_does_not_come_is_408() -> None:
    house = House()
    up = house.ask(POST + b"h")
    house.clock.advance(50)
    house.client.receive(b"e")
    house.clock.advance(59)
    assert house.client.value() == b""
    house.clock.advance(2)
    assert house.client.value().startswith(b"HTTP/1.1 408 ") and up.aborted
    assert house.client.half_closed


def test_a_backend_that_answers_early_is_waited_for_no_longer_than_others() -> None:
    house = House()
    house.site.options = {"backend_timeout": 20.0}
    up = house.ask(POST + b"h")
    house.clock.advance(15)
    up.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
    house.clock.advance(19)
    assert not house.client.aborted
    house.clock.advance(1)
    assert house.client.aborted and up.aborted


def test_who_waits_for_100_is_not_blamed_for_a_slow_backend() -> None:
    house = House()
    up = house.ask(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    house.clock.advance(100)
    assert house.client.value() == b"" and not up.aborted
    house.clock.advance(201)
    assert house.client.value().startswith(b"HTTP/1.1 504 ")


def test_a_backend_that_does_not_read_the_body_is_504() -> None:
    house = House()
    up = house.ask(POST + b"he")
    up.fill()
    house.clock.advance(299)
    assert house.client.value() == b""
    house.clock.advance(2)
    assert house.client.value().startswith(b"HTTP/1.1 504 ")


def test_a_client_that_never_reads_is_cut_off() -> None:
    house = House()
    up = house.ask()
    up.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\nab")
    house.client.fill()
    house.clock.advance(299)
    assert not house.client.aborted
    house.clock.advance(2)
    assert house.client.aborted and up.aborted


def test_nothing_is_left_when_all_are_gone() -> None:
    house = House()
    house.ask().receive(OK)
    house.client.lose()
    house.pool.close()
    assert house.clock.getDelayedCalls() == []


def test_a_refusal_of_the_pool_is_passed_on() -> None:
    house = House()
    house.pool.acquire = lambda *, fresh=False: _failed(GateError(503, "backend_busy", "m", retry_after=1))  # type: ignore[method-assign]
    house.client.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"Retry-After: 1\r\n" in house.client.take()


def _failed(error: GateError) -> Deferred[Any]:
    deferred: Deferred[Any] = Deferred()
    deferred.errback(error)
    return deferred
