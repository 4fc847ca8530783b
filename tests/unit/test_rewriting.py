"""What a message's head becomes on its way through a port."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from comfygate.gate import rewriting
from comfygate.gate.rewriting import request_for, translate
from comfygate.gate.site import Relay
from comfygate.http1 import Chunked, Length, NoBody, ProtocolError, UntilClose, parse_request_head

POOL: Any = object()
PLAIN = Relay(pool=POOL, host=b"127.0.0.1:9")


def asked(text: str = "GET / HTTP/1.1\nHost: h\n\n") -> Any:
    return parse_request_head(text.replace("\n", "\r\n").encode())


def lines(data: bytes) -> list[bytes]:
    assert data.endswith(b"\r\n\r\n")
    return data[:-4].split(b"\r\n")


# Requests.

HEADS = [
    "GET / HTTP/1.1\nHost: h\n\n",
    "GET /b?c HTTP/1.1\nHost: h\n\n",
    "GET / HTTP/1.0\nHost: h\n\n",
    "GET / HTTP/1.0\nHost: h\nExpect: 100-continue\n\n",
    "GET / HTTP/1.1\nHost: h\nExpect: 100-continue\n\n",
    "GET http://other/ HTTP/1.1\nHost: h\n\n",
    "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n",
    "POST / HTTP/1.1\nHost: h\nContent-Length: 5\nOrigin: http://h\nAccept: */*\n\n",
    "GET / HTTP/1.1\nHost: h\nConnection: X-a, close\nX-A: 1\nx-b: 2\nTE: trailers\n\n",
    "GET / HTTP/1.1\nHost: h\nX-Forwarded-For: 1.2.3.4\nX-Forwarded-Host: p\nX-Forwarded-Proto: https\n\n",
    "GET / HTTP/1.1\nHost: h\n" + "X: y\n" * 127 + "\n",
    "GET / HTTP/1.1\nHost: h\nX: " + "y" * 5000 + "\n\n",
]
RELAYS = [
    PLAIN,
    Relay(pool=POOL, host=b"127.0.0.1:10"),
    Relay(pool=POOL, host=b"127.0.0.1:9", drop_headers=frozenset({b"origin", b"accept"})),
    Relay(pool=POOL, host=b"127.0.0.1:9", only_headers=frozenset({b"accept", b"content-length"})),
    Relay(pool=POOL, host=b"127.0.0.1:9", extra_headers=((b"X-Gate", b"hub"),)),
    Relay(pool=POOL, host=b"127.0.0.1:9", extra_headers=((b"X-Gate", b"gpu-0"),)),
]


def test_what_is_remembered_of_one_request_is_not_told_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = list(product(HEADS, RELAYS, ("192.0.2.1", "192.0.2.2", "")))
    remembered = [[request_for(asked(head), relay, peer) for head, relay, peer in cases] for _ in range(2)]
    monkeypatch.setattr(rewriting, "_fields", Anew())
    assert remembered == [[request_for(asked(head), relay, peer) for head, relay, peer in cases]] * 2
    assert len(set(remembered[0])) > 100


class Anew:
    """Writes the fields without remembering any."""

    __wrapped__ = staticmethod(rewriting._fields.__wrapped__)

    def __call__(self, *arguments: Any) -> bytes:
        return self.__wrapped__(*arguments)


def test_a_client_is_named_to_the_upstream() -> None:
    head = asked()
    for peer in ("192.0.2.1", "2001:db8::1", "192.0.2.1"):
        assert b"X-Forwarded-For: " + peer.encode() in lines(request_for(head, PLAIN, peer))
    assert not any(line.startswith(b"X-Forwarded-For") for line in lines(request_for(head, PLAIN, "")))


def test_the_memory_is_bounded() -> None:
    for n in range(2000):
        request_for(asked(f"GET / HTTP/1.1\nHost: h\nX: {n}\n\n"), PLAIN, "p")
        request_for(asked(f"GET / HTTP/1.1\nHost: h\nX: {n}{'y' * 8000}\n\n"), PLAIN, "p")
    info = rewriting._fields.cache_info()
    assert info.maxsize is not None and info.currsize <= info.maxsize <= 256


# Answers.


def told(text: str, *, head: Any = None, keep_alive: bool = True, **options: Any) -> Any:
    relay = Relay(pool=POOL, host=b"h", **options)
    return translate(text.replace("\n", "\r\n").encode(), head or asked(), relay, keep_alive)


@pytest.mark.parametrize(
    "text",
    [
        "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        "HTTP/1.1 200\nContent-Length: 5\n\n",
        "HTTP/1.1 299 Some  thing, else\nSet-Cookie: a\nset-cookie: b\nX:\nContent-Length: 5\n\n",
        "HTTP/1.1 304 Not Modified\nETag: x\nContent-Length: 99\n\n",
        "HTTP/1.1 103 Early Hints\nLink: x\n\n",
    ],
)
def test_an_answer_goes_as_it_came(text: str) -> None:
    assert told(text).text == text.replace("\n", "\r\n").encode()


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("HTTP/1.0 200 OK\nA: 1\nContent-Length: 5\n\n", {}, ["A: 1", "Content-Length: 5"]),
        ("HTTP/1.1 200 OK\nConnection: x\nX: 1\nContent-Length: 5\n\n", {}, ["Content-Length: 5"]),
        ("HTTP/1.1 200 OK\nkeep-alive: 5\nContent-Length: 5\n\n", {}, ["Content-Length: 5"]),
        ("HTTP/1.1 204 No Content\nContent-Length: 0\nA: 1\n\n", {}, ["A: 1"]),
        ("HTTP/1.1 200 OK\nA: 1\nContent-Length: 5\n\n", {"withheld": frozenset({b"a"})}, ["Content-Length: 5"]),
        (
            "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
            {"answer_headers": ((b"Vary", b"Origin"),)},
            ["Content-Length: 5", "Vary: Origin"],
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\n", {"keep_alive": False}, ["Content-Length: 5", "Connection: close"]),
        (
            "HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\nA: 1\n\n",
            {},
            ["A: 1", "Transfer-Encoding: chunked"],
        ),
        ("HTTP/1.1 200 OK\nA: 1\n\n", {}, ["A: 1", "Transfer-Encoding: chunked"]),
    ],
)
def test_an_answer_is_written_anew(text: str, options: dict[str, Any], expected: list[str]) -> None:
    written = told(text, **options)
    first, *rest = lines(written.text)
    assert first == text.split("\n", maxsplit=1)[0].replace("HTTP/1.0", "HTTP/1.1").encode()
    assert rest == [line.encode() for line in expected]


def test_an_interim_answer_has_no_length() -> None:
    assert told("HTTP/1.1 103 Early Hints\nContent-Length: 2\n\n").text == b"HTTP/1.1 103 Early Hints\r\n\r\n"


def test_an_interim_answer_says_nothing_of_the_end() -> None:
    found = told("HTTP/1.1 100 Continue\n\n", keep_alive=False, answer_headers=((b"Vary", b"Origin"),))
    assert found.text == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [("1.1", "", True), ("1.0", "Connection: keep-alive\n", True), ("1.0", "", False)],
)
@pytest.mark.parametrize(
    ("fields", "framing", "size"),
    [
        ("Content-Length: 5\n", Length(5), 5),
        ("Content-Length: 0\n", Length(0), 0),
        ("Transfer-Encoding: chunked\n", Chunked(), None),
        ("", UntilClose(), None),
    ],
)
def test_how_it_ends(version: str, connection: str, kept: bool, fields: str, framing: Any, size: int | None) -> None:
    head = asked(f"GET / HTTP/{version}\nHost: h\n{connection}\n")
    found = told(f"HTTP/1.1 200 OK\n{fields}\n", head=head, keep_alive=kept)
    assert (found.answer.framing, found.size) == (framing, size)
    assert found.chunked == (size is None and version == "1.1")
    assert found.keep_alive == (kept and (size is not None or version == "1.1"))
    said = [line for line in lines(found.text) if line.startswith(b"Connection")]
    if version == "1.1":
        assert not said
    else:
        assert said == [b"Connection: keep-alive" if found.keep_alive else b"Connection: close"]


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No Content")]
)
def test_answers_without_a_body(method: str, status: str) -> None:
    found = told(f"HTTP/1.1 {status}\nContent-Length: 7\n\n", head=asked(f"{method} / HTTP/1.1\nHost: h\n\n"))
    assert found.answer.framing == NoBody() and found.size == 0 and found.keep_alive


@pytest.mark.parametrize(
    "text",
    [
        "HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 5\n\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n",
        "HTTP/1.1 200 OK\nX: a\0b\n\n",
        "HTTP/1.1 200 OK\n folded\n\n",
        "HTTP/2 200 OK\n\n",
        "\nHTTP/1.1 200 OK\n\n",
    ],
)
def test_what_cannot_be_relayed_safely(text: str) -> None:
    with pytest.raises(ProtocolError):
        told(text)
