"""Bridged WebSockets on in-memory wires and a clock."""

import json

import pytest
from twisted.internet.task import Clock

from comfygate.gate.backend_leg import BackendLeg
from comfygate.gate.client_leg import ClientLeg
from comfygate.gate.handshake import Wanted, client_id_of, handshake_of
from comfygate.gate.status_message import status_message, with_remaining
from comfygate.gate.websocket_leg import ABNORMAL, Ending
from comfygate.http1 import RequestHead
from tests.unit.bridging import ASK, KEY, Gate, accepted, frame, frames, status, text

# Decisions


def test_client_ids() -> None:
    assert client_id_of(b"/ws?clientId=a") == "a"
    assert client_id_of(b"/api/ws?x=1&clientId=a%2Fb+c&clientId=d") == "a/b c"
    assert client_id_of(b"/ws?clientId=%C3%A9") == client_id_of(b"/ws?clientId=%c3%a9") == "\u00e9"
    assert client_id_of(b"/%77s?clientId=a") == client_id_of(b"/ap%69/ws?clientId=a") == "a"
    assert client_id_of(b"/ws?clientId=%FF") == "\ufffd"
    for target in (b"/ws", b"/ws?", b"/ws?clientId=", b"/ws?clientid=a", b"/terminal?clientId=a"):
        assert client_id_of(target) is None


def test_what_the_backend_is_asked() -> None:
    headers = (
        *ASK,
        (b"Origin", b"http://there:8181"),
        (b"Connection", b"x-hop"),
        (b"X-Hop", b"1"),
        (b"Keep-Alive", b"5"),
        (b"Cookie", b"a=1"),
        (b"cookie", b"b=\xe9"),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
        (b"Sec-WebSocket-Protocol", b"one, two"),
    )
    wanted = Wanted.from_head(RequestHead(method=b"GET", target=b"/a%2Fb?c&=%zz", headers=headers), None)
    assert wanted.request("::1", 99).split(b"\r\n") == [
        b"GET /a%2Fb?c&=%zz HTTP/1.1",
        b"Host: [::1]:99",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Cookie: a=1",
        b"cookie: b=\xe9",
        b"Sec-WebSocket-Protocol: one, two",
        b"",
    ]
    assert wanted.subprotocols == ("one", "two")


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        (b"/ws", b"/ws?clientId=new"),
        (b"/api/ws?clientId=&x=%zz", b"/api/ws?clientId=new&clientId=&x=%zz"),
    ],
)
def test_an_id_that_is_made_up_comes_first(target: bytes, asked: bytes) -> None:
    wanted = Wanted.from_head(RequestHead(method=b"GET", target=target, headers=ASK), "new")
    assert wanted.request("127.0.0.1", 1).startswith(b"GET " + asked + b" HTTP/1.1\r\nHost: 127.0.0.1:1\r\n")
    assert client_id_of(asked) == "new"


def test_what_autobahn_is_shown() -> None:
    head = RequestHead(
        method=b"GET", target=b"/#x", headers=(*ASK, (b"Origin", b"nonsense"), (b"Sec-WebSocket-Extensions", b",;,"))
    )
    assert handshake_of(head) == (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
    )


def test_status_messages() -> None:
    told = status_message(2, "me")
    assert json.loads(told) == {
        "type": "status",
        "data": {"status": {"exec_info": {"queue_remaining": 2}}, "sid": "me"},
    }
    assert with_remaining(told, 2) == told
    assert with_remaining(told, 3) == status_message(3, "me")
    for odd in (
        b'{"type": "status"}',
        b'{"type": "status", "data": 5}',
        b'{"type": "status", ',
        b'{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": true}}}}',
        b'{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": "2"}}}}',
        told + b" " * 70_000,
    ):
        assert with_remaining(odd, 3) is None


def test_endings() -> None:
    assert Ending(1000, "bye").payload == (1000, b"bye")
    assert Ending().payload == (None, None)
    assert Ending(ABNORMAL).payload == (1001, b"")
    assert len(Ending(1000, "x" * 200).payload[1] or b"") == 123


# Bridges


def test_the_client_is_answered_when_the_backend_hasaccepted(gate: Gate) -> None:
    client = gate.client(rest=text("first", True))
    backend = gate.backend.take()
    assert client.written == b""
    request = backend.take()
    assert request.startswith(b"GET /ws?clientId=a HTTP/1.1\r\nHost: 127.0.0.1:8188\r\n")
    key = request.partition(b"Sec-WebSocket-Key: ")[2].strip()
    backend.protocol.dataReceived(accepted(key) + text("status at once"))
    head, _, rest = client.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Extensions" not in head
    assert frames(rest) == [(1, b"status at once")]
    assert frames(backend.take()) == [(1, b"first")]
    assert gate.bridges.clients == 1
    client.lost()
    assert frames(backend.take())[0][0] == 8
    backend.lost()
    assert gate.nothing_left()
    assert not gate.clock.getDelayedCalls()


def test_a_client_that_sends_much_before_it_may(gate: Gate) -> None:
    client = gate.client(rest=b"x" * 65_000)
    assert client.reading
    client.protocol.dataReceived(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 65_000)
    assert not client.reading
    assert client.written == b""


@pytest.mark.parametrize(
    ("answer", "status", "kind"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", 403, "backend_refused"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, "backend_refused"),
        (b"HTTP/1.1 200 OK\r\n\r\n", 502, "backend_failed"),
        (b"HTTP/1.1 500 Oh\r\n\r\n", 502, "backend_failed"),
        (b"nonsense\r\n\r\n", 502, "backend_failed"),
        (b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 502, "backend_failed"),
    ],
)
def test_a_backend_that_refuses(gate: Gate, answer: bytes, status: int, kind: str) -> None:
    client = gate.client()
    backend = gate.backend.take()
    backend.protocol.dataReceived(answer)
    head, _, body = client.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]["type"] == kind
    assert b"Content-Length: %d" % len(body) in head
    assert client.closed == "closing"
    client.lost()
    assert gate.nothing_left()
    assert not gate.clock.getDelayedCalls()


def test_a_custom_nodes_backend_that_cannot_be_reached(gate: Gate) -> None:
    client = gate.client(b"/terminal")
    gate.backend.refuse()
    assert client.take().startswith(b"HTTP/1.1 503 ")
    gate.clock.advance(5)  # it doesn't read the answer
    assert client.closed == "gone"
    assert gate.nothing_left()
    assert not gate.clock.getDelayedCalls()


@pytest.mark.parametrize("dialled", [False, True])
def test_a_backend_that_does_not_answer(gate: Gate, dialled: bool) -> None:
    client = gate.client()
    if dialled:
        gate.backend.take()
    gate.clock.advance(9.9)
    assert client.written == b""
    gate.clock.advance(0.2)
    assert client.take().startswith(b"HTTP/1.1 504 ")
    assert gate.backend.cancelled == (not dialled)
    client.lost()
    assert gate.nothing_left()
    assert not gate.clock.getDelayedCalls()


def test_a_backend_whose_head_never_ends(gate: Gate) -> None:
    client = gate.client()
    backend = gate.backend.take()
    for _ in range(3):
        backend.protocol.dataReceived(b"x" * 40_000)
    assert backend.closed == "gone"
    assert client.take().startswith(b"HTTP/1.1 502 ")


def test_a_client_that_leaves_before_it_is_answered(gate: Gate) -> None:
    client = gate.client()
    client.lost()
    assert gate.backend.cancelled == 1
    assert client.written == b""
    assert gate.nothing_left()
    assert not gate.clock.getDelayedCalls()


def test_a_leg_nobody_wants_is_closed_properly_once_it_is_open(gate: Gate) -> None:
    """Only a closing handshake makes sure that ComfyUI has forgotten the clientId."""
    first = gate.client()
    backend = gate.backend.take()
    first.lost()
    assert backend.closed is None
    second = gate.client()
    assert not gate.backend.dials
    key = backend.take().partition(b"Sec-WebSocket-Key: ")[2].strip()
    backend.protocol.dataReceived(accepted(key) + text("not for the second"))
    assert frames(backend.take()) == [(8, b"\x03\xe9")]
    backend.protocol.dataReceived(frame(8, b"\x03\xe9"))
    assert not gate.backend.dials
    backend.lost()
    gate.backend.accept()
    assert second.take().startswith(b"HTTP/1.1 101 ")


def test_a_backend_that_does_not_close_is_aborted(gate: Gate) -> None:
    client, backend = gate.open()
    client.lost()
    gate.clock.advance(2.9)
    assert backend.closed is None
    gate.clock.advance(0.2)
    assert backend.closed == "gone"
    assert gate.nothing_left()


def test_a_backend_that_closes_but_does_not_hang_up_is_aborted(gate: Gate) -> None:
    _, backend = gate.open()
    backend.protocol.dataReceived(frame(8, b"\x03\xe8"))
    gate.clock.advance(3.1)
    assert backend.closed == "gone"


def test_a_client_that_does_not_close_is_aborted(gate: Gate) -> None:
    client, backend = gate.open()
    backend.protocol.dataReceived(frame(8, b"\x03\xe8"))
    backend.lost()
    assert frames(client.take()) == [(8, b"\x03\xe8")]
    gate.clock.advance(5.1)
    assert client.closed == "gone"
    assert gate.nothing_left()
    assert not gate.clock.getDelayedCalls()


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xf3why", b"\x0f\xa0private", b"\x03\xf4"])
def test_close_frames_pass_as_they_are(gate: Gate, payload: bytes) -> None:
    client, backend = gate.open()
    backend.protocol.dataReceived(frame(8, payload))
    backend.lost()
    assert frames(client.take()) == [(8, payload)]
    client, backend = gate.open(b"/ws?clientId=b")
    client.protocol.dataReceived(frame(8, payload, True))
    client.lost()
    assert frames(backend.take()) == [(8, payload)]


def test_a_slow_client(gate: Gate) -> None:
    client, backend = gate.open()
    client.full = True
    backend.protocol.dataReceived(text("1") + text("2") + text("3"))
    assert frames(client.take()) == [(1, b"1")]
    client.full = False
    backend.protocol.dataReceived(text("4"))
    assert client.take() == b""
    client.drain()
    assert frames(client.take()) == [(1, b"2"), (1, b"3"), (1, b"4")]
    backend.protocol.dataReceived(text("5"))
    assert frames(client.take()) == [(1, b"5")]
    assert backend.reading


def test_a_client_that_is_too_slow(clock: Clock) -> None:
    gate = Gate(clock, outbox=2000)
    client, backend = gate.open()
    client.full = True
    for _ in range(10):
        backend.protocol.dataReceived(text({"type": "executed", "data": "x" * 100}))
    assert frames(client.take())[-1] == (8, b"\x03\xf5the client reads too slowly")
    assert frames(backend.take()) == [(8, b"\x03\xe9")]
    clock.advance(5.1)
    assert client.closed == backend.closed == "gone"
    assert gate.nothing_left()


def test_a_backend_that_takes_no_more(gate: Gate) -> None:
    client, backend = gate.open()
    backend.full = True
    client.protocol.dataReceived(text("1", True))
    assert not client.reading
    gate.clock.advance(20)
    gate.clock.advance(21)
    assert client.closed is None  # it was not listened to
    backend.drain()
    assert client.reading
    client.protocol.dataReceived(text("2", True))
    assert [payload for opcode, payload in frames(backend.take()) if opcode == 1] == [b"1", b"2"]


def test_pings(gate: Gate) -> None:
    client, backend = gate.open()
    gate.clock.advance(20)
    ((opcode, ping),) = frames(client.take())
    assert opcode == 9
    assert frames(backend.take())[0][0] == 9
    client.protocol.dataReceived(frame(10, ping, True))
    gate.clock.advance(20)
    assert frames(client.take())[0][0] == 9
    gate.clock.advance(21)
    assert client.closed == "gone"


def test_a_client_that_pings_but_does_not_read(gate: Gate) -> None:
    client, _ = gate.open()
    client.full = True
    for number in range(1000):
        client.protocol.dataReceived(frame(9, b"%d" % number, True))
    assert frames(client.take()) == [(10, b"0")]  # it was found to be full by this one
    client.drain()
    assert frames(client.take()) == [(10, b"999")]
    client.protocol.dataReceived(frame(9, b"more", True))
    assert frames(client.take()) == [(10, b"more")]


def test_a_message_in_tiny_fragments_costs_what_is_in_it(gate: Gate) -> None:
    def fragment(first: int, payload: bytes) -> bytes:
        return bytes([first]) + frame(0, payload, True)[1:]

    client, backend = gate.open()
    client.protocol.dataReceived(fragment(2, b""))
    client.protocol.dataReceived((fragment(0, b"") * 9 + fragment(0, b"ab")) * 100)
    assert len(client.protocol.message_data) == 1
    client.protocol.dataReceived(fragment(0x80, b"!"))
    assert frames(backend.take()) == [(2, b"ab" * 100 + b"!")]


def test_all_that_are_overtaken_are_answered_at_once(gate: Gate) -> None:
    first, _ = gate.open()
    others = [gate.client() for _ in range(5)]  # while the first one's leg still closes
    assert all(client.take().startswith(b"HTTP/1.1 101 ") for client in others[:-1])
    assert others[-1].take() == b""
    gate.backend.wires[0].lost()
    gate.backend.accept()
    assert others[-1].take().startswith(b"HTTP/1.1 101 ")
    assert not gate.backend.dials
    assert first.closed is None


def test_status_is_told_once_a_turn_and_only_if_it_is_new(gate: Gate) -> None:
    client, backend = gate.open()
    gate.status.number = 1
    gate.bridges.status_changed()
    gate.clock.advance(0)
    assert client.take() == b""  # the backend has said nothing yet
    backend.protocol.dataReceived(text(status(2)))
    assert frames(client.take()) == [(1, json.dumps(status(1), separators=(",", ":")).encode())]
    for number in (2, 3, 4):
        gate.status.number = number
        gate.bridges.status_changed()
    assert client.take() == b""
    gate.clock.advance(0)
    assert [json.loads(payload) for _, payload in frames(client.take())] == [status(4)]
    gate.bridges.status_changed()
    gate.clock.advance(0)
    assert client.take() == b""


def test_the_last_event_of_a_prompt_is_noted(gate: Gate) -> None:
    client, backend = gate.open()
    prompt_id = "11111111-2222-4333-8444-555555555555"
    for kind in ("execution_start", "execution_success", "execution_error", "execution_interrupted"):
        event = {"type": kind, "data": {"prompt_id": prompt_id, "timestamp": 1}}
        backend.protocol.dataReceived(text(event))
    assert gate.status.over == [prompt_id] * 3
    assert len(frames(client.take())) == 4


def test_the_newest_with_a_client_id_is_served(gate: Gate) -> None:
    old, first = gate.open()
    first.protocol.dataReceived(text(status(0)))
    assert len(frames(old.take())) == 1
    old.protocol.dataReceived(text('{"type": "feature_flags"}', True) + text("2", True))
    assert len(frames(first.take())) == 2
    new = gate.client()
    assert frames(first.take()) == [(8, b"\x03\xe8")]
    old.protocol.dataReceived(text("3", True))  # nobody hears it
    first.lost()
    second = gate.backend.accept()
    assert new.take().startswith(b"HTTP/1.1 101 ")
    second.protocol.dataReceived(text("for the new"))
    assert (old.take(), len(frames(new.take()))) == (b"", 1)
    new.lost()
    second.lost()
    old.protocol.dataReceived(text("4", True))  # held
    third = gate.backend.accept()
    assert [payload for _, payload in frames(third.take())] == [b'{"type": "feature_flags"}', b"4"]
    third.protocol.dataReceived(text("again"))
    assert frames(old.take()) == [(1, b"again")]


def test_one_that_is_overtaken_before_it_is_answered(gate: Gate) -> None:
    gate.status.number = 4
    old, new = gate.client(), gate.client()
    answer, _, rest = old.take().partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 ")
    ((_, payload),) = frames(rest)
    assert json.loads(payload) == {"type": "status", "data": {**status(4)["data"], "sid": "a"}}
    old.protocol.dataReceived(text('{"type": "feature_flags", "data": {}}', True))
    gate.backend.dials.pop(0)
    gate.backend.accept()
    assert new.take().startswith(b"HTTP/1.1 101 ")
    new.lost()
    gate.backend.wires[0].lost()
    assert frames(gate.backend.accept().take()) == [(1, b'{"type": "feature_flags", "data": {}}')]


def test_one_that_is_overtaken_before_the_backend_has_said_anything(gate: Gate) -> None:
    gate.status.number = 4
    old, backend = gate.open()
    new = gate.client()
    ((_, payload),) = frames(old.take())
    assert json.loads(payload) == {"type": "status", "data": {**status(4)["data"], "sid": "a"}}
    backend.protocol.dataReceived(text(status(9)))  # was on its way
    assert (old.take(), new.take()) == (b"", b"")


def test_without_a_client_id_each_is_on_its_own(gate: Gate) -> None:
    one, first = gate.open(b"/ws")
    two, second = gate.open(b"/ws")
    first.protocol.dataReceived(text("1"))
    second.protocol.dataReceived(text("2"))
    assert (frames(one.take()), frames(two.take())) == ([(1, b"1")], [(1, b"2")])


@pytest.mark.parametrize("size", [0, 100])
def test_messages_held_are_bounded(clock: Clock, size: int) -> None:
    gate = Gate(clock, held=1000)
    old, first = gate.open()
    new = gate.client()
    first.lost()
    gate.backend.accept()
    new.take()
    new.lost()
    gate.backend.wires[-1].lost()
    for _ in range(11):
        old.protocol.dataReceived(text("x" * size, True))
    assert frames(old.take())[-1][1][:2] == b"\x03\xf0"
    assert old.written == b""


def test_close(gate: Gate) -> None:
    opened, backend = gate.open()
    pending = gate.client(b"/ws?clientId=b")
    closed: list[None] = []
    gate.bridges.close().addCallback(closed.append)
    assert frames(opened.take()) == [(8, b"\x03\xf4the server is stopping")]
    assert pending.take().startswith(b"HTTP/1.1 503 ")
    late = gate.client(b"/ws?clientId=c")
    assert late.take().startswith(b"HTTP/1.1 503 ")
    for wire in (opened, pending, late):
        wire.lost()
    assert not closed
    backend.lost()
    assert closed == [None]
    assert gate.nothing_left()
    assert not gate.clock.getDelayedCalls()
    assert gate.bridges.close().called


def test_too_many_clients(clock: Clock) -> None:
    gate = Gate(clock, clients=1)
    gate.open()
    second = gate.client(b"/ws?clientId=b")
    head, _, body = second.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["error"]["type"] == "too_many_connections"
    assert not gate.backend.dials


def test_no_extension_and_no_delay(gate: Gate) -> None:
    client = gate.client(headers=(*ASK, (b"Sec-WebSocket-Extensions", b"permessage-deflate")))
    backend = gate.backend.take()
    assert b"extensions" not in backend.take().lower()
    assert isinstance(client.protocol, ClientLeg)
    assert isinstance(backend.protocol, BackendLeg)
    assert client.no_delay
    assert backend.no_delay
    # One that was not asked for ends the leg.
    backend.protocol.dataReceived(
        accepted(backend.protocol.websocket_key)[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    assert backend.closed == "gone"
    assert client.take().startswith(b"HTTP/1.1 502 ")
