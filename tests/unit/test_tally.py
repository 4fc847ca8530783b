"""What a port counts: each request once, with the status that its client saw, and every byte."""

from __future__ import annotations

from comfygate.errors import GateError
from comfygate.routes import Kind
from tests.unit import test_relay, test_server
from tests.unit.test_relay import OK


def counts(house: test_relay.House | test_server.House) -> dict[tuple[str, int], int]:
    return {(kind.value, status): count for (kind, status), count in house.factory.tally.requests.items()}


def test_relayed_answers() -> None:
    house = test_relay.House()
    house.site.options["kind"] = Kind.VIEW
    request = b"GET /view HTTP/1.1\r\nHost: h\r\n\r\n"
    for answer in (OK, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 103 Hint\r\n\r\n" + OK):
        house.ask(request).receive(answer)
    assert counts(house) == {("view", 200): 2, ("view", 404): 1}
    tally = house.factory.tally
    assert tally.received == 3 * len(request)
    assert tally.sent == len(house.client.take())
    assert (tally.answered, tally.refused) == (3, 0)


def test_an_upload_and_a_download() -> None:
    house = test_relay.House()
    up = house.ask(b"POST /upload/image HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
    house.client.receive(bytes(100_000))
    up.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + bytes(70_000))
    assert house.factory.tally.received > 100_000
    assert house.factory.tally.sent == len(house.client.take()) > 70_000


def test_our_own_answers() -> None:
    house = test_server.House()
    house.refuse(GateError(429, "rate_limited", "Too many requests", retry_after=2))
    for path in (b"/prompt", b"/api/queue", b"/api/%70rompt", b"/anything"):
        house.client.receive(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path)
    assert counts(house) == {("prompt", 429): 2, ("queue", 429): 1, ("other", 429): 1}
    assert house.factory.tally.refused == 4
    assert house.factory.tally.sent == len(house.client.take())


def test_what_is_no_request() -> None:
    house = test_server.House()
    house.client.receive(b"nonsense\r\n\r\n")
    assert counts(house) == {("other", 400): 1}


def test_an_upstream_that_fails_counts_as_the_client_saw_it() -> None:
    house = test_relay.House()
    house.ask(b"GET /history HTTP/1.1\r\nHost: h\r\n\r\n").lose()
    assert counts(house) == {("history", 502): 1}


def test_a_client_that_leaves_before_its_answer_is_not_counted() -> None:
    house = test_relay.House()
    house.ask()
    house.client.lose()
    assert counts(house) == {}


def test_kinds_are_told_apart_although_hashed_by_identity() -> None:
    assert {kind: kind.value for kind in Kind} == {Kind(kind.value): kind.value for kind in Kind}
    assert len({(kind, 200) for kind in Kind}) == len(Kind)
