"""Requests that were decided about before: what is remembered, for whom, for how long, and what it never changes."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from zope.interface import implementer

from comfygate.errors import GateError
from comfygate.gate.limits import Limits
from comfygate.gate.plans import MAX_BODY, MAX_HEAD, MOST, MOST_ANSWERS, MOST_ONCE, Plan, Plans
from comfygate.gate.pool import UpstreamPool
from comfygate.gate.repeated import Repeated
from comfygate.gate.rewriting import Translation, translate
from comfygate.gate.server import GateFactory
from comfygate.gate.site import Decision, Era, IGateSite, Relay
from comfygate.gate.uploads import UploadRoom
from comfygate.http1 import Headers, RequestHead, parse_request_head
from tests.unit.wires import Endpoint, Wire

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POOL: Any = object()


def post(body: bytes) -> bytes:
    return b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


# What is kept.


def keep(plans: Plans, raw: bytes, *, peer: str = "p", era: Era | None = None, **options: Any) -> Plan | None:
    """Let a request be remembered, and look for it."""
    relay = Relay(pool=POOL, host=b"h", era=era or Era(), **options)
    plans.keep(peer, raw, parse_request_head(raw), relay, b"for the upstream")
    return plans.find(peer, raw)


def head(method: str = "GET", target: str = "/", *fields: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", *fields, "", ""]).encode()


@pytest.mark.parametrize(
    "raw",
    [
        head(),
        head("HEAD"),
        head("OPTIONS", "*"),
        head("DELETE"),
        head("POST", "/", f"Content-Length: {MAX_BODY}"),
        head("GET", "/" + "x" * (MAX_HEAD - len(head()))),
        b"GET / HTTP/1.0\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
)
def test_what_is_remembered(raw: bytes) -> None:
    plan = keep(Plans(at_once=True), raw)
    assert plan is not None and plan.head == parse_request_head(raw)
    assert plan.request == b"for the upstream"


@pytest.mark.parametrize(
    "raw",
    [
        head("POST", "/", f"Content-Length: {MAX_BODY + 1}"),
        head("POST", "/", "Transfer-Encoding: chunked"),
        head("POST", "/", "Content-Length: 5", "Expect: 100-continue"),
        head("GET", "/" + "x" * (MAX_HEAD + 1 - len(head()))),
    ],
)
def test_what_is_not(raw: bytes) -> None:
    plans = Plans(at_once=True)
    assert keep(plans, raw) is None and len(plans) == 0


def test_a_decision_that_does_not_last_is_not_remembered() -> None:
    plans = Plans(at_once=True)
    relay = Relay(pool=POOL, host=b"h")
    plans.keep("p", GET, parse_request_head(GET), relay, b"")
    assert plans.find("p", GET) is None and len(plans) == 0


def test_a_body_that_is_too_large_is_refused_every_time() -> None:
    raw = head("POST", "/", "Content-Length: 5")
    assert keep(Plans(at_once=True), raw, max_body=4) is None
    assert keep(Plans(at_once=True), raw, max_body=5) is not None


def test_an_upload_that_waits_for_its_turn_is_not_remembered() -> None:
    turn = UploadRoom(Clock()).turn(0)  # type: ignore[arg-type]
    assert keep(Plans(at_once=True), head("POST", "/", "Content-Length: 5"), turn=turn) is None


def test_the_shorter_way_may_be_off() -> None:
    plans = Plans(0)
    assert keep(plans, GET) is None and len(plans) == 0


def test_each_client_has_its_own() -> None:
    plans = Plans(at_once=True)
    keep(plans, GET, peer="192.0.2.1")
    assert plans.find("192.0.2.2", GET) is None
    assert plans.find("", GET) is None


def test_every_byte_counts() -> None:
    plans = Plans(at_once=True)
    keep(plans, GET)
    for other in (GET.lower(), GET.replace(b"h\r", b"H\r"), GET[:-2], GET + b"\r\n", GET.replace(b": ", b":"), b""):
        assert plans.find("p", other) is None


def test_the_oldest_goes_first() -> None:
    plans = Plans(at_once=True)
    heads = [head("GET", f"/{n}") for n in range(MOST + 1)]
    for raw in heads:
        keep(plans, raw)
    assert len(plans) == MOST
    assert plans.find("p", heads[0]) is None
    assert all(plans.find("p", raw) for raw in heads[1:])


def test_one_that_comes_again_takes_nobodys_place() -> None:
    plans = Plans(2, at_once=True)
    first, second, third = (head("GET", f"/{n}") for n in range(3))
    keep(plans, first)
    keep(plans, second)
    keep(plans, second)
    assert plans.find("p", first)
    keep(plans, first)
    keep(plans, third)
    assert plans.find("p", first) and plans.find("p", second) is None


def test_what_comes_once_is_worth_no_plan_and_drives_out_none() -> None:
    plans, poll = Plans(), head("GET", "/queue")
    assert keep(plans, poll) is None
    assert keep(plans, poll, peer="another") is None
    assert keep(plans, poll) is not None
    for n in range(3 * MOST_ONCE):
        assert keep(plans, head("GET", f"/{n}")) is None
        assert len(plans._once) <= MOST_ONCE
    assert len(plans) == 1 and plans.find("p", poll) is not None


def test_an_era_ends_all_that_was_decided_in_it() -> None:
    plans, era = Plans(at_once=True), Era()
    raws = [head("GET", f"/{n}") for n in range(3)]
    for raw in raws:
        keep(plans, raw, era=era)
    other = keep(plans, head("GET", "/other"))
    era.over = True
    assert [plans.find("p", raw) for raw in raws] == [None] * 3
    assert plans.find("p", head("GET", "/other")) is other
    assert len(plans) == 1
    assert keep(plans, raws[0]) is not None


def learn(plan: Plan, raw: bytes, *, keep_alive: bool = True) -> Translation:
    told = translate(raw, plan.head, plan.relay, keep_alive)
    plan.learn(told)
    return told


@pytest.fixture
def plan() -> Plan:
    plan = keep(Plans(at_once=True), GET)
    assert plan is not None
    return plan


def test_an_answer_is_recognised_by_its_head_and_length(plan: Plan) -> None:
    raw = OK[:-2]
    told = learn(plan, raw)
    assert plan.recognise(OK) is plan.recognise(raw + b"no") is told
    for other in (OK[:-1], OK + b"x", raw, raw[:-1], raw[:5], b"", b"\r\n\r\n", OK.replace(b"OK", b"ok"), OK + OK):
        assert plan.recognise(other) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_answers_that_are_not_recognised(plan: Plan, raw: bytes) -> None:
    learn(plan, raw)
    assert plan.recognise(raw) is None


def test_an_answer_after_which_the_client_has_to_go_is_not_recognised(plan: Plan) -> None:
    learn(plan, OK[:-2], keep_alive=False)
    assert plan.recognise(OK) is None


def test_few_answers_are_kept_those_that_came_last(plan: Plan) -> None:
    heads = [b"HTTP/1.1 200 OK\r\nDate: %d\r\nContent-Length: 2\r\n\r\n" % n for n in range(3 * MOST_ANSWERS)]
    for raw in heads:
        learn(plan, raw)
        assert learn(plan, raw) is plan.recognise(raw + b"ok")
    known = [raw for raw in heads if plan.recognise(raw + b"ok") is not None]
    assert known == heads[-MOST_ANSWERS:]


# What becomes of requests that come again.


@implementer(IGateSite)
class Site:
    """Relays everything; counts what it was asked."""

    def __init__(self, pool: UpstreamPool) -> None:
        self.pool = pool
        self.era: Era | None = Era()
        self.options: dict[str, Any] = {}
        self.asked = 0
        self.error: GateError | None = None

    def admit(self, head: RequestHead, peer: str) -> Decision | Deferred[Decision]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Relay(pool=self.pool, host=b"b", era=self.era, **self.options)

    def error_headers(self, head: RequestHead) -> Headers:
        return ()


class Narrow(Wire):
    """Takes only so much, as a socket does."""

    room = 200_000

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self.value()) > self.room and self.producer is not None:
            self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))


class House:
    """A port in front of one pool."""

    def __init__(self, plans: Plans | None = None, **limits: Any) -> None:
        self.clock = Clock()
        self.endpoint = Endpoint()
        self.pool = UpstreamPool(self.endpoint, self.clock, name="GPU 0", idle_time=10_000)
        self.site = Site(self.pool)
        plans = Plans(at_once=True) if plans is None else plans
        self.factory = GateFactory(self.site, self.clock, Limits(**limits), plans=plans)
        self.room = Narrow.room
        self.times = 3
        self.client = self.connect()

    def connect(self, peer: str = "192.0.2.1") -> Narrow:
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        wire = Narrow(protocol)
        wire.protocol.peer = peer
        wire.room = self.room
        return wire

    @property
    def up(self) -> Wire:
        return self.endpoint.wires[-1]

    def warm(self, request: bytes = GET) -> None:
        """See this request, and its usual answer."""
        for _ in range(self.times):
            self.ask(request)

    def ask(self, request: bytes, answer: bytes = OK, client: Wire | None = None) -> tuple[bytes, bytes]:
        """Make a request; give what the upstream was sent, and what the client was."""
        client = client or self.client
        client.receive(request)
        sent = self.up.take()
        self.up.receive(answer)
        return sent, client.take()


@pytest.fixture(params=[1, 3], ids=["requests", "answers too"])
def house(request: pytest.FixtureRequest) -> House:
    """What it has seen before when it was warmed; it knows answers only of what it has repeated."""
    house = House()
    house.times = request.param
    return house


ANSWERS = [
    OK,
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 99\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    b"HTTP/1.1 404 Not Found\r\nConnection: keep-alive, x\r\nX: 1\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
]
WARM = b"GET /warm HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        GET,
        post(b""),
        post(b"hello"),
        post(b"x" * MAX_BODY),
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
    ],
    ids=["GET", "no body", "5 bytes", "64 kB", "close", "1.0", "1.0 kept", "hops"],
)
@pytest.mark.parametrize("answer", ANSWERS, ids=["200", "empty", "204", "304", "chunks", "103", "404", "1.0"])
def test_each_time_is_like_the_first(request_: bytes, answer: bytes) -> None:
    told = []
    for plans in (Plans(at_once=True), Plans(0)):
        house = House(plans)
        for _ in range(4):
            house.ask(WARM)  # so that there is a connection
            told.append((*house.ask(request_, answer), house.client.closed))
            if house.client.closed:
                house.client.lose()
                house.client = house.connect()
        tally = house.factory.tally
        assert tally.answered == 8
        told.append((tally.received, tally.sent, tally.requests))  # type: ignore[arg-type]
        if house.factory.plans._most:  # without a connection that lies idle, it is thought about all the same
            assert house.site.asked == (5 if house.up.aborted else 2)
    assert told[:4] == [told[0]] * 4
    assert told[:5] == told[5:]


def test_the_answer_to_head_has_no_body(house: House) -> None:
    for _ in range(3):
        asked = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
        assert house.ask(asked, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")[1].endswith(b"99\r\n\r\n")
    assert house.ask(GET)[1] == OK


@pytest.mark.parametrize("size", [1, 7, 20, len(OK) - 1])
def test_an_answer_in_pieces(house: House, size: int) -> None:
    for _ in range(3):
        house.client.receive(GET)
        for start in range(0, len(OK), size):
            house.up.receive(OK[start : start + size])
        assert house.client.take() == OK
    assert house.site.asked == 1 and house.endpoint.count == 1


@pytest.mark.parametrize("interim", [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_interim_answer_is_not_the_answer(house: House, interim: bytes) -> None:
    for _ in range(4):
        house.client.receive(GET)
        house.up.receive(interim)
        assert house.client.take() == interim and house.pool.idle == 0
        house.up.receive(OK)
        assert house.client.take() == OK and house.pool.idle == 1
    assert house.site.asked == 1 and house.endpoint.count == 1


def test_an_answer_that_a_client_does_not_take_at_once(house: House) -> None:
    body = b"x" * (house.client.room + 1)
    large = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    other = house.connect()
    for _ in range(4):
        assert house.ask(GET, large)[1] == large
        assert not house.up.paused and house.pool.idle == 1  # the backend is held up no longer than its answer lasts
        other.receive(GET)
        house.client.drain()
        assert house.client.value() == b""
        house.up.receive(OK)
        assert other.take() == OK
    house.clock.advance(74)
    assert not house.client.disconnecting
    house.clock.advance(1)
    assert house.client.closed


def test_what_comes_behind_an_answer_is_never_anybodys(house: House) -> None:
    for count in range(1, 4):
        assert house.ask(GET, OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbogus")[1] == OK
        assert house.up.aborted and house.pool.idle == 0
        assert house.endpoint.count == count
    assert house.ask(GET)[1] == OK


def test_what_comes_while_a_connection_lies_idle_ends_it(house: House) -> None:
    house.ask(GET)
    house.up.receive(OK)
    assert house.up.aborted
    assert house.ask(GET)[1] == OK and house.endpoint.count == 2


def test_each_client_is_told_of_as_itself(house: House) -> None:
    clients = {peer: house.connect(peer) for peer in ("192.0.2.1", "192.0.2.2", "2001:db8::1")}
    for _ in range(3):
        for peer, client in clients.items():
            sent, _ = house.ask(GET, client=client)
            assert sent.count(b"X-Forwarded-For: ") == 1 and b"X-Forwarded-For: %b\r\n" % peer.encode() in sent
    assert house.site.asked == 3


def test_answers_that_are_known_stay_known_when_no_connection_is_idle(house: House) -> None:
    house.times = 3
    house.warm()
    plan = house.factory.plans.find("192.0.2.1", GET)
    other = house.connect()
    house.client.receive(GET)
    other.receive(GET)
    assert plan is not None and house.factory.plans.find("192.0.2.1", GET) is plan


def test_idle_clients_hold_no_more_plans_than_the_port_keeps() -> None:
    house = House(Plans(2, at_once=True))
    clients = [house.connect() for _ in range(10)]
    for n, client in enumerate(clients):
        for _ in range(3):
            house.ask(head("GET", f"/{n}"), client=client)
    held = [found for found in gc.get_objects() if isinstance(found, Plan) and found.relay.pool is house.pool]
    assert len(held) <= 2


# What a plan never goes round.


def test_what_costs_a_token_is_decided_each_time(house: House) -> None:
    house.site.era = None
    for _ in range(3):
        house.ask(GET)
    assert house.site.asked == 3
    house.site.error = GateError(429, "rate_limited", "m", retry_after=1)
    house.client.receive(GET)
    assert house.client.take().startswith(b"HTTP/1.1 429 ") and house.up.take() == b""


def test_a_new_era_is_decided_in_anew(house: House) -> None:
    for _ in range(2):
        assert house.ask(GET)[1] == OK
    assert house.site.era is not None
    house.site.era.over = True
    house.site.era = Era()
    house.site.options = {"answer_headers": ((b"Vary", b"Origin"),), "extra_headers": ((b"X-New", b"1"),)}
    for _ in range(2):
        sent, told = house.ask(GET)
        assert b"X-New: 1" in sent and b"Vary: Origin" in told
    assert house.site.asked == 2
    house.site.era.over = True
    house.site.error = GateError(403, "forbidden_origin", "m")
    house.client.receive(GET)
    assert house.client.take().startswith(b"HTTP/1.1 403 ")


def test_a_new_era_begins_while_a_request_is_under_way(house: House) -> None:
    for _ in range(2):
        house.ask(GET)
    house.client.receive(GET)
    assert house.site.era is not None
    house.site.era.over = True
    house.up.take()
    house.up.receive(OK)
    assert house.client.take() == OK
    house.ask(GET)
    assert house.site.asked == 2


def test_only_a_whole_request_is_one_that_was_there_before(house: House) -> None:
    whole = post(b"hello")
    house.warm(whole)
    for piece in (whole[:-1], whole[: len(whole) - 5], whole[:30], whole[:1]):
        house.client.receive(piece)
        house.client.receive(whole[len(piece) :])
        assert house.up.take().endswith(b"\r\n\r\nhello")
        house.up.receive(OK)
        assert house.client.take() == OK
    assert house.site.asked == 5


def test_nothing_of_a_request_is_kept_for_an_idle_client(house: House) -> None:
    large = post(b"x" * MAX_BODY)
    house.warm(large)
    for answer in (OK, OK[:-1], OK):  # in the middle one, an exchange takes it over
        house.ask(large, answer)
        assert not {"_request", "_plan"} & set(vars(house.client.protocol._repeated))
        house.up.receive(OK[len(answer) :])


@pytest.mark.parametrize("request_", [GET, post(b"hello")])
def test_pipelined_requests(house: House, request_: bytes) -> None:
    house.warm(request_)
    last = b"GET /last HTTP/1.1\r\nHost: h\r\n\r\n"
    house.client.receive(request_ + request_ + last[:5])
    house.client.receive(last[5:])
    for path in (request_.split()[1],) * 2 + (b"/last",):
        assert house.up.take().split()[1] == path
        house.up.receive(OK)
        assert house.client.take() == OK
    assert house.ask(request_)[1] == OK


def test_a_request_before_the_answer_to_the_one_before(house: House) -> None:
    house.warm()
    house.client.receive(GET)
    house.up.take()
    house.client.receive(GET)
    assert house.up.take() == b""
    house.up.receive(OK)
    assert house.client.take() == OK
    assert house.up.take()
    house.up.receive(OK)
    assert house.client.take() == OK


def test_a_client_that_does_not_read_gets_no_more(house: House) -> None:
    house.warm()
    house.client.fill()
    house.client.receive(GET)
    assert house.up.take() == b""
    house.client.drain()
    assert house.up.take()
    house.up.receive(OK)
    assert house.client.take() == OK


def test_a_port_that_closes(house: House) -> None:
    house.warm()
    idle = house.connect()
    house.client.receive(GET)
    house.factory.stop()
    assert idle.closed and not house.client.disconnecting
    house.up.receive(OK)
    assert b"\r\nConnection: close\r\n" in house.client.take() and house.client.closed


def test_a_port_that_closes_in_mid_answer(house: House) -> None:
    house.warm()
    house.client.receive(GET)
    house.up.receive(OK[:-1])
    house.factory.stop()
    assert not house.client.disconnecting
    house.up.receive(OK[-1:])
    assert house.client.take() == OK and house.client.closed


def test_a_backend_that_is_gone(house: House) -> None:
    house.warm()
    house.pool.close()
    house.client.receive(GET)
    assert house.client.take().startswith(b"HTTP/1.1 502 ") and house.site.asked == 2


def test_no_connection_is_idle(house: House) -> None:
    house.warm()
    house.endpoint.error = ConnectionRefusedError()
    house.up.lose()
    house.client.receive(GET)
    assert house.client.take().startswith(b"HTTP/1.1 502 ")
    house.endpoint.error = None
    assert house.ask(GET)[1] == OK


def test_a_half_closed_client_gets_its_answer(house: House) -> None:
    house.warm()
    house.client.receive(GET)
    house.client.eof()
    house.up.receive(OK)
    assert house.client.take() == OK and house.client.closed


def test_the_client_leaving_cancels_it(house: House) -> None:
    house.warm()
    house.client.receive(GET)
    house.client.lose()
    assert house.up.aborted and house.pool.busy == 0 and house.factory.connections == 0


def test_a_full_backend_holds_the_client(house: House) -> None:
    house.warm(post(b"hello"))
    house.client.receive(post(b"hello"))
    house.up.fill()
    assert house.client.paused
    house.up.drain()
    assert not house.client.paused
    house.up.fill()
    house.up.receive(OK)  # an answer before the request has gone
    assert not house.client.paused and house.up.aborted


# Failures.


def test_a_stale_connection_is_replaced_once(house: House) -> None:
    house.warm()
    house.client.receive(GET)
    expected = house.up.take()
    house.up.lose()
    assert house.endpoint.count == 2 and house.up.take() == expected
    house.up.lose()
    assert house.client.take().startswith(b"HTTP/1.1 502 ") and house.endpoint.count == 2


def test_a_fresh_connection_answers(house: House) -> None:
    house.warm()
    house.client.receive(GET)
    house.up.lose()
    house.up.take()
    house.up.receive(OK)
    assert house.client.take() == OK
    assert house.ask(GET)[1] == OK
    assert house.site.asked == 1 and house.endpoint.count == 2


@pytest.mark.parametrize("request_", [post(b"hello"), post(b""), b"DELETE /a HTTP/1.1\r\nHost: h\r\n\r\n"])
def test_what_may_have_been_done_is_never_sent_again(house: House, request_: bytes) -> None:
    house.warm(request_)
    house.client.receive(request_)
    house.up.lose()
    assert house.client.take().startswith(b"HTTP/1.1 502 ") and house.endpoint.count == 1


def test_no_retry_once_anything_was_heard(house: House) -> None:
    house.warm()
    house.client.receive(GET)
    house.up.receive(b"HTTP")
    house.up.lose()
    assert house.client.take().startswith(b"HTTP/1.1 502 ") and house.endpoint.count == 1


def test_a_cut_answer_is_cut(house: House) -> None:
    house.warm()
    house.client.receive(GET)
    house.up.receive(OK[:-1])
    house.up.lose()
    assert house.client.aborted


def test_garbage_is_502(house: House) -> None:
    house.warm()
    assert house.ask(GET, b"SSH-2.0\r\n\r\n")[1].startswith(b"HTTP/1.1 502 ")
    assert house.ask(GET)[1] == OK


# Time.


def late(house: House) -> bool:
    """Whether anything should have been done by now that was not."""
    connection = house.client.protocol
    if isinstance(connection._exchange, Repeated):  # to ask it would make it another
        repeated = connection._exchange
        return bool(repeated._began + repeated._plan.relay.backend_timeout <= house.clock.seconds())
    due = connection._due()
    return due is not None and due[0] <= house.clock.seconds() and not house.client.lost


@pytest.mark.parametrize("seconds", [0.5, 9.0, 10.0, 74.5, 75.0, 75.5, 300.0])
@pytest.mark.parametrize("pause", [0.0, 1.0, 9.5, 40.0, 74.0])
def test_a_silent_backend_is_504_in_time(house: House, seconds: float, pause: float) -> None:
    house.site.options = {"backend_timeout": seconds}
    for _ in range(4):
        house.ask(GET)
        house.clock.advance(pause)
        assert not house.client.disconnecting and not late(house)
    house.client.receive(GET)
    house.clock.advance(seconds - 0.25)
    assert house.client.value() == b""
    house.clock.advance(0.25)
    assert house.client.value().startswith(b"HTTP/1.1 504 ") and house.up.aborted
    assert house.site.asked == 1


@pytest.mark.parametrize("seconds", [0.5, 74.5, 300.0])
@pytest.mark.parametrize("pause", [0.0, 1.0, 9.5, 40.0, 74.0])
def test_an_idle_connection_is_closed_in_time(house: House, seconds: float, pause: float) -> None:
    house.site.options = {"backend_timeout": seconds}
    for _ in range(4):
        house.ask(GET)
        house.clock.advance(pause)
    house.ask(GET)
    house.clock.advance(74.5)
    assert not house.client.disconnecting
    house.clock.advance(0.5)
    assert house.client.closed and house.client.value() == b""


def test_an_answer_may_take_longer_than_a_client_may_be_idle(house: House) -> None:
    house.warm()
    house.clock.advance(70)
    house.client.receive(GET)
    house.clock.advance(299)
    house.up.receive(OK)
    assert house.client.take().endswith(OK)
    house.clock.advance(74)
    assert not house.client.disconnecting
    house.clock.advance(1)
    assert house.client.closed


def test_a_late_answer_leaves_no_more_time_to_be_idle(house: House) -> None:
    house.warm()
    house.clock.advance(70)
    house.client.receive(GET)
    house.clock.advance(10)  # until here the timer was set for the client, now for the backend
    house.up.receive(OK)
    house.clock.advance(74)
    assert not house.client.disconnecting
    house.clock.advance(1)
    assert house.client.closed


def test_the_next_head_must_come_in_time(house: House) -> None:
    for _ in range(3):
        house.ask(GET)
        house.clock.advance(70)
    house.client.receive(GET[:9])
    house.clock.advance(9.5)
    assert house.client.value() == b""
    house.clock.advance(0.5)
    assert house.client.value().startswith(b"HTTP/1.1 408 ")


def test_a_retry_is_timed_as_well(house: House) -> None:
    house.site.options = {"backend_timeout": 20.0}
    house.warm()
    house.clock.advance(70)
    house.client.receive(GET)
    house.endpoint.at_once = False
    house.clock.advance(15)
    house.up.lose()
    house.clock.advance(4)  # the connection takes a while
    house.endpoint.let_in()
    house.clock.advance(19.5)
    assert house.client.value() == b""
    house.clock.advance(0.5)
    assert house.client.value().startswith(b"HTTP/1.1 504 ")


def test_a_client_that_takes_nothing_of_a_complete_answer_is_cut_off_in_time() -> None:
    house = House(stalled=10.0)
    house.ask(GET)
    house.client.receive(GET)
    house.client.fill()
    for piece, after in ((OK[:5], 5), (OK[5:9], 7), (OK[9:], 4)):
        house.clock.advance(after)
        house.up.producerState = "producing"  # the kernel had it already
        house.up.receive(piece)
    house.clock.advance(0)
    assert house.client.aborted


def test_one_timer_serves_many_requests(house: House) -> None:
    for _ in range(100):
        house.ask(GET)
        house.clock.advance(0.01)
    assert len(house.clock.getDelayedCalls()) == 2  # the connection's and the pool's


# Anything, in any order.


class Twins:
    """Two ports to which the same happens: one remembers, the other thinks about every request."""

    def __init__(self, random: Random) -> None:
        limits = {"stalled": random.choice([10.0, 300.0]), "idle": random.choice([20.0, 75.0]), "pipelined": 2000}
        options = {"backend_timeout": random.choice([2.0, 15.0, 74.0, 80.0, 300.0])}
        self.random = random
        self.houses = [House(Plans(4, at_once=True), **limits), House(Plans(0), **limits)]
        room = random.choice([200, 1000, 10_000])
        for house in self.houses:
            house.site.options = options
            house.room = house.client.room = room

    def step(self) -> str:
        """Do something that may happen now; say what."""
        name = self.random.choice(STEPS)
        seed = self.random.random()
        done = [getattr(self, f"_{name}")(house, Random(seed)) for house in self.houses]
        assert done[0] == done[1], name
        return f"{name} {done[0]}"

    def _wait(self, house: House, random: Random) -> float:
        seconds = random.choice([0.1, 1.0, 4.0, 9.0, 11.0, 60.0, 76.0])
        for _ in range(10):
            house.clock.advance(seconds / 10)
            assert not late(house)
        return seconds

    def _ask(self, house: House, random: Random) -> bytes | None:
        request = random.choice([*REQUESTS[:2] * 8, *REQUESTS, REQUESTS[0] * 2, REQUESTS[1] + REQUESTS[0]])
        cut = random.choice([len(request)] * 14 + [10, len(request) - 2])
        return self._client_sends(house, request[:cut], request[cut:])

    def _ask_on(self, house: House, random: Random) -> bytes | None:
        rest: bytes = house.client.__dict__.get("rest", b"")
        return self._client_sends(house, rest, b"") if rest else None

    def _client_sends(self, house: House, data: bytes, rest: bytes) -> bytes | None:
        client = house.client
        unable = client.paused or client.disconnecting or client.lost or client.half_closed
        if unable or client.protocol._eof or (client.__dict__.get("rest") and rest):
            return None
        if client.__dict__.get("rest") and rest == b"" and data != client.rest:
            return None
        client.rest = rest
        client.receive(data)
        return data

    def _lent(self, house: House) -> Wire | None:
        exchange = house.client.protocol._exchange
        upstream = None if exchange is None else exchange._upstream
        return None if upstream is None else upstream.wire

    def _answer(self, house: House, random: Random) -> bytes | None:
        wire = self._lent(house)
        if wire is None or wire.paused:
            return None
        answer = wire.__dict__.pop("rest", b"") or random.choice(ANSWERS + [OK] * 12)
        cut = random.choice([len(answer)] * 8 + [10, max(1, answer.find(b"\r\n\r\n") + 4), len(answer) - 1])
        wire.rest = answer[cut:]
        wire.receive(answer[:cut])
        return answer

    def _lose(self, house: House, random: Random) -> bool:
        wire = self._lent(house)
        if wire is not None and random.random() < 0.5:
            wire.lose()
        return wire is not None

    def _forget(self, house: House, random: Random) -> int:
        idle = list(house.pool._idle)
        for connection in idle[-1:]:
            connection._wire.lose()
        return len(idle)

    def _fill(self, house: House, random: Random) -> bool:
        able = house.client.producer is not None and not house.client.lost
        if able and not house.client.protocol._full:
            house.client.fill()
        return able

    def _drain(self, house: House, random: Random) -> bool:
        able = house.client.producer is not None and not house.client.lost and house.client.protocol._full
        if able:
            house.client.clear()
            house.client.drain()
        return bool(able)

    def _leave(self, house: House, random: Random) -> bool:
        if not house.client.lost and random.random() < 0.05:
            house.client.lose()
        if house.client.lost or house.client.disconnecting:
            if not house.client.lost:
                house.client.lose()
            house.client = house.connect()
            return True
        return False

    def _half_close(self, house: House, random: Random) -> bool:
        client = house.client
        able = not (client.lost or client.disconnecting or client.paused or client.protocol._eof)
        if able and random.random() < 0.2:
            client.eof()
        return able

    def seen(self) -> list[Any]:
        """What the world outside can see of each."""
        found = []
        for house in self.houses:
            client = house.client
            ends = [(wire.value(), wire.aborted, wire.paused, wire.lost) for wire in house.endpoint.wires]
            told = _undated(client.value())
            found.append((told, client.disconnecting, client.aborted, client.half_closed, client.paused, ends))
        return found


def _undated(data: bytes) -> bytes:
    return re.sub(rb"Date: [^\r]*", b"Date: x", data)


REQUESTS = [
    GET,
    post(b"hello"),
    b"GET /once HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD /h HTTP/1.1\r\nHost: h\r\n\r\n",
]
STEPS = [
    *["ask", "answer"] * 15,
    *["ask_on", "leave", "drain"] * 5,
    *["wait"] * 3,
    *["lose", "forget", "fill", "half_close"],
]


@pytest.mark.parametrize("seed", range(60))
def test_nobody_can_tell_whether_it_is_remembered(seed: int) -> None:
    twins = Twins(Random(seed))
    course = []
    for _ in range(300):
        course.append(twins.step())
        one, other = twins.seen()
        assert one == other, course
