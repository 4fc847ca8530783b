"""A port that pages of other origins may use: what its site adds to another's decisions."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from zope.interface import implementer

from comfygate.cors import ANSWER_FIELDS, Origins
from comfygate.errors import GateError
from comfygate.gate.cross_origin import CrossOriginSite
from comfygate.gate.site import Answer, Decision, IGateSite, Relay, Upgrade
from comfygate.http1 import Headers, RequestHead, parse_request_head

PAGE = "http://localhost:3000"
RELAY = Relay(pool=None, host=b"x", drop_headers=frozenset({b"x"}), answer_headers=((b"A", b"b"),))  # type: ignore[arg-type]
SHARED = (
    (b"Access-Control-Allow-Origin", PAGE.encode()),
    (b"Access-Control-Expose-Headers", b"*"),
    (b"Vary", b"Origin"),
)


@implementer(IGateSite)
@define
class FakeSite:
    """Decides as it is told, and notes what it was asked."""

    decision: Any = RELAY
    asked: list[RequestHead] = field(factory=list)

    def admit(self, head: RequestHead, peer: str) -> Decision | Deferred[Decision]:
        self.asked.append(head)
        if isinstance(self.decision, GateError):
            raise self.decision
        decision: Decision | Deferred[Decision] = self.decision
        return decision

    def error_headers(self, head: RequestHead) -> Headers:
        return ((b"X-Own", b"1"),)


@define
class House:
    inner: FakeSite = field(factory=FakeSite)

    def ask(self, *fields: str, method: str = "GET") -> Any:
        return self.site.admit(request(*fields, method=method), "")

    @property
    def site(self) -> CrossOriginSite:
        return CrossOriginSite(self.inner, Origins([PAGE]))


def request(*fields: str, method: str = "GET") -> RequestHead:
    lines = [f"{method} / HTTP/1.1", "Host: localhost:8181", *fields, ""]
    return parse_request_head("".join(f"{line}\r\n" for line in lines).encode())


def test_an_allowed_page_is_let_through_without_its_origin_and_may_read_the_answer() -> None:
    house = House()
    relay = house.ask(f"Origin: {PAGE}", "Sec-Fetch-Site: cross-site", "Accept: */*")
    assert [name for name, _ in house.inner.asked[0].headers] == [b"Host", b"Accept"]
    assert relay.answer_headers == ((b"A", b"b"), *SHARED)
    assert relay.drop_headers == {b"x", b"origin", b"sec-fetch-site"}
    assert relay.withheld == ANSWER_FIELDS


@pytest.mark.parametrize("fields", [(), ("Origin: http://localhost:8181",), ("Origin: http://evil.example",)])
def test_of_others_only_caches_are_told(fields: tuple[str, ...]) -> None:
    house = House()
    asked = request(*fields)
    relay: Any = house.site.admit(asked, "")
    assert house.inner.asked == [asked]
    assert relay.answer_headers == ((b"A", b"b"), (b"Vary", b"Origin"))
    assert (relay.drop_headers, relay.withheld) == ({b"x"}, set())
    assert house.site.error_headers(asked) == ((b"X-Own", b"1"), (b"Vary", b"Origin"))


def test_a_preflight_of_an_allowed_page_asks_nobody_else() -> None:
    house = House()
    answer = house.ask(f"Origin: {PAGE}", "Access-Control-Request-Method: POST", method="OPTIONS")
    assert (answer.status, answer.body) == (204, b"")
    assert (b"Access-Control-Allow-Origin", PAGE.encode()) in answer.headers
    assert house.inner.asked == []


def test_a_preflight_of_another_page_is_refused_as_everything_of_it() -> None:
    house = House(FakeSite(GateError(403, "forbidden_origin", "No")))
    with pytest.raises(GateError):
        house.ask("Origin: null", "Access-Control-Request-Method: POST", method="OPTIONS")


def test_a_refusal_can_be_read() -> None:
    house = House(FakeSite(GateError(429, "rate_limited", "No")))
    with pytest.raises(GateError):
        house.ask(f"Origin: {PAGE}")
    assert house.site.error_headers(request(f"Origin: {PAGE}")) == ((b"X-Own", b"1"), *SHARED)


def test_an_answer_of_the_site_can_be_read_also_when_it_comes_later() -> None:
    later: Deferred[Decision] = Deferred()
    house = House(FakeSite(later))
    found: list[Answer] = []
    house.ask(f"Origin: {PAGE}").addCallback(found.append)
    assert not found
    later.callback(Answer(status=200, headers=((b"A", b"b"),)))
    assert found[0].headers == ((b"A", b"b"), *SHARED)


def test_a_websocket_is_left_alone() -> None:
    upgrade = Upgrade(lambda transport, data: None)  # type: ignore[arg-type, return-value]
    assert House(FakeSite(upgrade)).ask(f"Origin: {PAGE}") is upgrade
