"""Which pages of other origins may use a port, and what their browsers are told."""

from __future__ import annotations

import pytest

from comfygate.cors import Origins, answer_headers, is_preflight, preflight_headers
from comfygate.errors import GateError
from comfygate.http1 import RequestHead, parse_request_head

PAGE = "http://localhost:3000"


def head(*fields: str, method: str = "GET", host: str = "localhost:8181") -> RequestHead:
    lines = [f"{method} /queue/all HTTP/1.1", f"Host: {host}", *fields]
    return parse_request_head("".join(f"{line}\r\n" for line in [*lines, ""]).encode())


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ([PAGE], PAGE),
        ([PAGE, "https://tools.example"], "https://tools.example"),
        (["null"], "null"),
        (["*"], "null"),
        (["*"], "https://anywhere.example"),
        (["*"], "http://localhost"),
        (["*"], "chrome-extension://abcdef"),
        (["http://localhost"], "http://localhost"),
    ],
)
def test_an_allowed_page(allowed: list[str], origin: str) -> None:
    assert Origins(allowed).foreign(head(f"Origin: {origin}")) == origin.encode()


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ([PAGE], "http://localhost:3001"),
        ([PAGE], "https://localhost:3000"),
        ([PAGE], "http://localhost:3000.evil.example"),
        ([PAGE], "http://localhost:3000, http://evil.example"),
        ([PAGE], "null"),
        ([PAGE], ""),
        ([], PAGE),
        (["*"], "*"),
        (["*"], "not an origin"),
        (["*"], "http://a b"),
        (["*"], "http://localhost:8181"),
        (["*"], "HTTP://LOCALHOST:8181"),
    ],
)
def test_another_page_or_the_ports_own(allowed: list[str], origin: str) -> None:
    assert Origins(allowed).foreign(head(f"Origin: {origin}")) is None


def test_no_page() -> None:
    assert Origins(["*"]).foreign(head()) is None


def test_an_answer_names_the_one_origin() -> None:
    assert answer_headers(b"null") == (
        (b"Access-Control-Allow-Origin", b"null"),
        (b"Access-Control-Expose-Headers", b"*"),
        (b"Vary", b"Origin"),
    )


def test_what_is_a_preflight() -> None:
    asks = ("Origin: null", "Access-Control-Request-Method: POST")
    assert is_preflight(head(*asks, method="OPTIONS"))
    assert not is_preflight(head(*asks))
    assert not is_preflight(head(asks[0], method="OPTIONS"))
    assert not is_preflight(head(asks[1], method="OPTIONS"))


def preflight(*fields: str) -> dict[bytes, bytes]:
    asking = head("Access-Control-Request-Method: POST", *fields, method="OPTIONS")
    return dict(preflight_headers(PAGE.encode(), asking))


def test_a_preflight_is_granted_what_it_asks_for() -> None:
    granted = preflight(
        "Access-Control-Request-Headers: content-type,x-target-gpu",
        "Access-Control-Request-Headers: , comfy-user",
        "Access-Control-Request-Private-Network: true",
    )
    assert granted[b"Access-Control-Allow-Origin"] == PAGE.encode()
    assert granted[b"Access-Control-Allow-Headers"] == b"content-type, x-target-gpu, comfy-user"
    assert granted[b"Access-Control-Allow-Private-Network"] == b"true"
    assert b"PUT" in granted[b"Access-Control-Allow-Methods"].split(b", ")
    assert int(granted[b"Access-Control-Max-Age"]) > 0
    assert granted[b"Vary"] == b"Origin"


def test_a_preflight_that_asks_for_nothing_special() -> None:
    granted = preflight()
    assert b"Access-Control-Allow-Headers" not in granted
    assert b"Access-Control-Allow-Private-Network" not in granted
    assert b"Access-Control-Allow-Credentials" not in granted


@pytest.mark.parametrize("names", ["a b", "x:y", "é", "a;b", ",".join(f"x-{n}" for n in range(65)), "x" * 257])
def test_a_preflight_that_asks_for_nonsense(names: str) -> None:
    with pytest.raises(GateError) as caught:
        preflight(f"Access-Control-Request-Headers: {names}")
    assert (caught.value.status, caught.value.type) == (400, "invalid_preflight")
