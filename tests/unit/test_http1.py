"""Heads and bodies: what is taken, what is refused, and that the cuts between reads don't matter."""

from __future__ import annotations

import random

import pytest

from comfygate.errors import GateError
from comfygate.http1 import (
    MAX_HEAD,
    MAX_HEADERS,
    MAX_LINE,
    Chunked,
    Framing,
    Length,
    NoBody,
    ProtocolError,
    UntilClose,
    decoder_for,
    encode_chunk,
    end_to_end,
    index_of,
    parse_request_head,
    parse_response_head,
    request_head_end,
    response_head_end,
    serialise_fields,
    serialise_response,
)


def head(*lines: bytes, first: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: h") -> bytes:
    return b"\r\n".join([first, *([host] if host else []), *lines, b"", b""])


def refusal(data: bytes) -> GateError:
    """What is said to a client that sends `data`, whichever of the two functions finds out."""
    with pytest.raises(GateError) as caught:
        end = request_head_end(data)
        assert end >= 0, "not a complete head"
        parse_request_head(data[:end])
    return caught.value


# Request heads: what is taken.


def test_plain_request() -> None:
    got = parse_request_head(head(b"X-A: 1", b"x-a:\t 2 ", first=b"GET /view?filename=a%2Fb&x=1 HTTP/1.1"))
    assert (got.method, got.target, got.path, got.version) == (b"GET", b"/view?filename=a%2Fb&x=1", b"/view", (1, 1))
    assert got.headers == ((b"Host", b"h"), (b"X-A", b"1"), (b"x-a", b"2"))
    assert got.get(b"x-a") == b"1"
    assert got.get(b"missing") is None
    assert got.framing == NoBody()
    assert got.keep_alive and got.upgrade is None and not got.expects_continue


@pytest.mark.parametrize(
    "target",
    [b"/", b"/%2F/../x", b"//two", b"/a;b=c?d[e]=%zz&f=\"'<>`{|}\\^", b"/" + b"x" * 8000],
)
def test_target_is_kept_byte_for_byte(target: bytes) -> None:
    assert parse_request_head(head(first=b"GET %b HTTP/1.1" % target)).target == target


def test_options_star() -> None:
    assert parse_request_head(head(first=b"OPTIONS * HTTP/1.1")).target == b"*"


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (b"GET", b"http://real:81/view?a=b", b"/view?a=b"),
        (b"GET", b"HTTP://real:81", b"/"),
        (b"GET", b"http://real:81?a", b"/?a"),
        (b"OPTIONS", b"http://real:81", b"*"),
    ],
)
def test_absolute_form_replaces_host(method: bytes, target: bytes, expected: bytes) -> None:
    got = parse_request_head(head(first=b"%b %b HTTP/1.1" % (method, target)))
    assert got.target == expected
    assert [value for name, value in got.headers if name == b"Host"] == [b"real:81"]


@pytest.mark.parametrize("host", [b"h", b"h:8181", b"127.0.0.1:1", b"[::1]:8188", b"my_gpu.local:", b"a-b.example"])
def test_hosts_taken(host: bytes) -> None:
    assert parse_request_head(head(host=b"Host: " + host)).get(b"host") == host


def test_two_empty_lines_before_a_request_are_skipped() -> None:
    data = b"\r\n\r\n" + head()
    assert request_head_end(data) == len(data)
    assert parse_request_head(data).method == b"GET"


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [b"Connection: x", b"Connection: Keep-Alive, Close"], False),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: Keep-Alive"], True),
        (b"1.0", [b"Connection: keep-alive, close"], False),
    ],
)
def test_keep_alive(version: bytes, lines: list[bytes], keep_alive: bool) -> None:
    assert parse_request_head(head(*lines, first=b"GET / HTTP/" + version)).keep_alive is keep_alive


def test_http_1_0_needs_no_host() -> None:
    assert parse_request_head(head(first=b"GET / HTTP/1.0", host=b"")).get(b"host") is None


def test_upgrade_needs_the_connection_option() -> None:
    assert parse_request_head(head(b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket")).upgrade == b"websocket"
    assert parse_request_head(head(b"Upgrade: websocket")).upgrade is None
    assert (
        parse_request_head(head(b"Connection: Upgrade", b"Upgrade: websocket", first=b"GET / HTTP/1.0")).upgrade is None
    )


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        ([b"Content-Length: 0"], Length(0)),
        ([b"Content-Length: 9223372036854775807"], Length(2**63 - 1)),
        ([b"Transfer-Encoding: Chunked"], Chunked()),
    ],
)
def test_request_framing(lines: list[bytes], framing: Framing) -> None:
    assert parse_request_head(head(*lines)).framing == framing


def test_expectation() -> None:
    assert parse_request_head(head(b"Expect: 100-Continue")).expects_continue
    assert not parse_request_head(head(b"Expect: 100-continue", first=b"GET / HTTP/1.0")).expects_continue


# Request heads: what is refused.

BAD = {
    "bare LF": b"GET / HTTP/1.1\nHost: h\n\n",
    "bare LF after a header": b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
    "bare CR in a value": head(b"X: a\rb"),
    "CR before CRLF": head(b"X: a\r"),
    "NUL in a value": head(b"X: a\0b"),
    "control in a value": head(b"X: a\x01b"),
    "DEL in a value": head(b"X: a\x7fb"),
    "folded header": head(b"X: a", b" b"),
    "folded with a tab": head(b"X: a", b"\tb"),
    "space at the first header": b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    "space before the colon": head(b"X : a"),
    "tab before the colon": head(b"X\t: a"),
    "no colon": head(b"nothing"),
    "empty name": head(b": a"),
    "name is no token": head(b"X(y): a"),
    "non-ASCII name": head("Ä: a".encode()),
    "no Host": head(host=b""),
    "two Hosts": head(b"Host: h"),
    "two Hosts in HTTP/1.0": head(b"Host: other", first=b"GET / HTTP/1.0"),
    "empty Host": head(host=b"Host: "),
    "Host with a path": head(host=b"Host: h/x"),
    "Host with a user": head(host=b"Host: u@h"),
    "Host with two names": head(host=b"Host: a, b"),
    "Host with a space": head(host=b"Host: a b"),
    "two Content-Lengths": head(b"Content-Length: 5", b"Content-Length: 6"),
    "equal Content-Lengths": head(b"Content-Length: 5", b"Content-Length: 5"),
    "a list of Content-Lengths": head(b"Content-Length: 5, 5"),
    "negative Content-Length": head(b"Content-Length: -1"),
    "signed Content-Length": head(b"Content-Length: +1"),
    "hexadecimal Content-Length": head(b"Content-Length: 0x1"),
    "underscored Content-Length": head(b"Content-Length: 1_0"),
    "empty Content-Length": head(b"Content-Length:"),
    "Content-Length overflow": head(b"Content-Length: 9223372036854775808"),
    "long Content-Length": head(b"Content-Length: " + b"0" * 30 + b"1"),
    "CL and TE": head(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "TE and CL": head(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two TEs": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "TE in HTTP/1.0": head(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0"),
    "two spaces": head(first=b"GET  / HTTP/1.1"),
    "tab in the request line": head(first=b"GET\t/ HTTP/1.1"),
    "space in the target": head(first=b"GET /a b HTTP/1.1"),
    "leading space": head(first=b" GET / HTTP/1.1"),
    "trailing space": head(first=b"GET / HTTP/1.1 "),
    "no version": head(first=b"GET /"),
    "lower-case protocol": head(first=b"GET / http/1.1"),
    "long minor version": head(first=b"GET / HTTP/1.10"),
    "method is no token": head(first=b"G@T / HTTP/1.1"),
    "control in the target": head(first=b"GET /\x01 HTTP/1.1"),
    "DEL in the target": head(first=b"GET /\x7f HTTP/1.1"),
    "non-ASCII target": head(first="GET /ä HTTP/1.1".encode()),
    "fragment": head(first=b"GET /prompt#x HTTP/1.1"),
    "no leading slash": head(first=b"GET view HTTP/1.1"),
    "star for GET": head(first=b"GET * HTTP/1.1"),
    "authority-form": head(first=b"CONNECT h:80 HTTP/1.1"),
    "https absolute-form": head(first=b"GET https://h/ HTTP/1.1"),
    "absolute-form without authority": head(first=b"GET http:///x HTTP/1.1"),
    "absolute-form with a user": head(first=b"GET http://u@h/x HTTP/1.1"),
    "absolute-form without Host": head(first=b"GET http://h/x HTTP/1.1", host=b""),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "three empty lines": b"\r\n\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_requests_are_refused(data: bytes) -> None:
    error = refusal(data)
    assert (error.status, error.type) == (400, "bad_request")
    assert error.message


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head(b"Transfer-Encoding: gzip, chunked"), 501),
        (head(b"Transfer-Encoding: identity"), 501),
        (head(b"Transfer-Encoding: \x0bchunked"), 400),
        (head(b"Transfer-Encoding:"), 501),
        (head(first=b"GET / HTTP/2.0"), 505),
        (head(first=b"GET / HTTP/1.2"), 505),
        (head(first=b"GET / HTTP/0.9"), 505),
        (head(first=b"GET /" + b"x" * MAX_LINE + b" HTTP/1.1"), 414),
        (b"GET /" + b"x" * MAX_LINE, 414),
        (head(b"X: " + b"y" * MAX_LINE), 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_LINE, 431),
        (head(*[b"X: y"] * MAX_HEADERS), 431),
        (head(*[b"X: " + b"y" * 8000] * 9), 431),
        ((b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 9), 431),
    ],
)
def test_other_refusals(data: bytes, status: int) -> None:
    assert refusal(data).status == status


def test_limits_are_inclusive() -> None:
    target = b"/" + b"x" * (MAX_LINE - len(b"GET / HTTP/1.1"))
    data = head(b"X: " + b"y" * (MAX_LINE - 3), *[b"Y: z"] * (MAX_HEADERS - 2), first=b"GET %b HTTP/1.1" % target)
    assert request_head_end(data) == len(data)
    assert len(parse_request_head(data).headers) == MAX_HEADERS
    assert request_head_end(b"GET %b HTTP/1.1" % target) == -1
    fill = MAX_HEAD - len(head(*[b"X: " + b"y" * 8000] * 8)) - len(b"Z: \r\n")
    data = head(*[b"X: " + b"y" * 8000] * 8, b"Z: " + b"z" * fill)
    assert len(data) == MAX_HEAD
    assert request_head_end(data) == MAX_HEAD


@pytest.mark.parametrize("data", [head(b"X: y"), b"\r\n" + head(), *BAD.values()])
def test_byte_by_byte_is_as_whole(data: bytes) -> None:
    """Neither is a good head refused for where it was cut, nor does a bad one slip through."""

    def outcome(step: int) -> int | str:
        scanned = 0
        try:
            for have in [*range(step, len(data), step), len(data)]:
                end = request_head_end(bytearray(data[:have]), scanned)
                scanned = have
                if end >= 0:
                    parse_request_head(data[:end])
                    return end
        except GateError:
            return "refused"
        return "incomplete"

    assert outcome(1) == outcome(2) == outcome(3) == outcome(len(data))


def test_unfinished_garbage_is_refused_at_once() -> None:
    for data in (b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\rX", b"\x00", b"\x80"):
        with pytest.raises(GateError):
            request_head_end(data)


# Answers.


@pytest.mark.parametrize(
    ("data", "method", "framing", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"GET", Length(5), True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HEAD", NoBody(), True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET", Chunked(), True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HEAD", NoBody(), True),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"GET", UntilClose(), False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", b"GET", Length(1), False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", NoBody(), True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n", b"GET", NoBody(), True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"POST", NoBody(), True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n", b"GET", Length(1), False),
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n", b"GET", Length(1), True),
    ],
)
def test_answers(data: bytes, method: bytes, framing: Framing, keep_alive: bool) -> None:
    got = parse_response_head(data, method)
    assert (got.framing, got.keep_alive) == (framing, keep_alive)


def test_answer_keeps_reason_and_values() -> None:
    got = parse_response_head("HTTP/1.1 404 Nöt Found\r\nX: ä\x01\r\nX:\r\n\r\n".encode(), b"GET")
    assert (got.status, got.reason, got.hop_by_hop) == (404, "Nöt Found".encode(), frozenset())


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 099 No\r\n\r\n",
        b"HTTP/1.1 600 No\r\n\r\n",
        b"HTTP/1.1 20 No\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 129 + b"\r\n",
    ],
)
def test_bad_answers(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_response_head(data, b"GET")


def test_where_an_answer_ends() -> None:
    data = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nbody"
    assert [response_head_end(data[:n]) for n in range(1, len(data) - 4)] == [-1] * (len(data) - 5)
    assert response_head_end(data) == len(data) - 4
    for bad in (b"X", b"HTTP/2", b"SSH-2.0", b"HTTP/1.1 200 OK\r\n" + b"x" * MAX_HEAD):
        with pytest.raises(ProtocolError):
            response_head_end(bad)


# Rewriting.


def test_hop_by_hop_fields_are_dropped_and_the_rest_kept_in_order() -> None:
    headers = (
        (b"X-B", b"1"),
        (b"Connection", b"close, X-Secret"),
        (b"x-secret", b"s"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Authorization", b"p"),
        (b"TE", b"trailers"),
        (b"Trailer", b"t"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"x-a", b"2"),
        (b"X-B", b"3"),
    )
    assert end_to_end(index_of(headers)) == ((b"X-B", b"1"), (b"x-a", b"2"), (b"X-B", b"3"))


def test_connection_cannot_take_the_framing_away() -> None:
    headers = ((b"Connection", b"Content-Length, Host"), (b"Host", b"h"), (b"Content-Length", b"5"))
    assert end_to_end(index_of(headers)) == headers[1:]


def test_serialisation_parses_back() -> None:
    data = b"PUT /x?y HTTP/1.1\r\n" + serialise_fields([(b"Host", b"h"), (b"Content-Length", b"3")])
    assert parse_request_head(data).framing == Length(3)
    data = serialise_response(418, b"Teapot", [(b"Content-Length", b"3")])
    assert parse_response_head(data, b"GET").reason == b"Teapot"


# Bodies.


def decode(framing: Framing, data: bytes, cuts: list[int]) -> tuple[bytes, bytes, bool] | str:
    decoder = decoder_for(framing)
    payload = []
    try:
        for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if start < stop:
                payload += decoder.feed(data[start:stop])
    except ProtocolError:
        return "broken"
    return b"".join(payload), decoder.rest, decoder.finished


CHUNKED = b'5\r\nhello\r\n0A ; x="y"\r\n0123456789\r\n00\r\nTrailer: x\r\n\r\n'


@pytest.mark.parametrize(
    ("framing", "data", "expected"),
    [
        (Length(5), b"helloGET", (b"hello", b"GET", True)),
        (Length(5), b"hell", (b"hell", b"", False)),
        (Length(0), b"x", (b"", b"x", True)),
        (NoBody(), b"xy", (b"", b"xy", True)),
        (UntilClose(), b"xyz", (b"xyz", b"", False)),
        (Chunked(), CHUNKED + b"GET", (b"hello0123456789", b"GET", True)),
        (Chunked(), b"0\r\n\r\n", (b"", b"", True)),
        (Chunked(), b"5\r\nhel", (b"hel", b"", False)),
        (Chunked(), b"5\r\nhello!", "broken"),
        (Chunked(), b"5\r\nhelloX\n", "broken"),
        (Chunked(), b"5\r\nhello\n0\r\n\r\n", "broken"),
        (Chunked(), b"5\nhello\r\n", "broken"),
        (Chunked(), b"5\r\r\nhello\r\n", "broken"),
        (Chunked(), b" 5\r\nhello\r\n", "broken"),
        (Chunked(), b"-5\r\nhello\r\n", "broken"),
        (Chunked(), b"+5\r\nhello\r\n", "broken"),
        (Chunked(), b"0x5\r\nhello\r\n", "broken"),
        (Chunked(), b"5_0\r\n", "broken"),
        (Chunked(), b"\r\n", "broken"),
        (Chunked(), b"; x\r\n", "broken"),
        (Chunked(), b"5 x\r\n", "broken"),
        (Chunked(), b"5;x\x00\r\n", "broken"),
        (Chunked(), b"8000000000000000\r\n", "broken"),
        (Chunked(), b"00000000000000005\r\n", "broken"),
        (Chunked(), b"0\r\nX: a\nY: b\r\n\r\n", "broken"),
        (Chunked(), b"5;" + b"x" * 2000, "broken"),
        (Chunked(), (b"1;" + b"x" * 1000 + b"\r\nz\r\n") * 17, "broken"),
        (Chunked(), b"0\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 9, "broken"),
    ],
)
def test_bodies_wherever_they_are_cut(framing: Framing, data: bytes, expected: object) -> None:
    assert decode(framing, data, []) == expected
    assert decode(framing, data, list(range(1, len(data)))) == expected
    rng = random.Random(1)
    for _ in range(50):
        cuts = sorted(rng.sample(range(1, len(data)), min(3, len(data) - 1)))
        assert decode(framing, data, cuts) == expected


@pytest.mark.parametrize(
    ("framing", "data"), [(Length(5), b"hell"), (Chunked(), b"5\r\nhello\r\n"), (Chunked(), b"5\r\nhello\r\n0\r\n")]
)
def test_a_cut_body_is_noticed(framing: Framing, data: bytes) -> None:
    decoder = decoder_for(framing)
    decoder.feed(data)
    with pytest.raises(ProtocolError):
        decoder.eof()


def test_the_end_of_the_connection_ends_some_bodies() -> None:
    decoder = decoder_for(UntilClose())
    decoder.feed(b"x")
    decoder.eof()
    assert decoder.finished
    decoder_for(NoBody()).eof()


def test_a_piece_of_a_long_body_is_not_copied() -> None:
    piece = bytes(65536)
    assert decoder_for(Length(10**9)).feed(piece)[0] is piece
    assert decoder_for(UntilClose()).feed(piece)[0] is piece


def test_chunks_decode_back() -> None:
    data = b"".join([*encode_chunk([b"ab", b"c"]), *encode_chunk([b"x" * 300]), b"0\r\n\r\n"])
    assert decode(Chunked(), data, []) == (b"abc" + b"x" * 300, b"", True)
