"""The shorter way through Twisted's transports: the same as the long one, only shorter."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from comfygate.gate.fast_path.transports import (
    LARGE,
    SMALL,
    Dialler,
    DirectClient,
    DirectServer,
    lend,
    read_little,
    shorten,
)
from tests.unit.loopback import HalfCloseable, Loop, Made, Notes, pattern

MIB = 1024 * 1024


# Sending.


def test_what_the_socket_takes_is_sent_at_once(loop: Loop) -> None:
    transport, peer = loop.connect(Notes())
    transport.write(b"one")
    transport.write(b"")
    transport.writeSequence([b", two", b"", b", three"])
    peer.read()
    assert peer.received == b"one, two, three"
    assert transport.is_clear and transport not in loop.reactor.getWriters()


def test_what_it_does_not_take_is_sent_in_order(loop: Loop, made: Made) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes, made)
    transport.registerProducer(notes, True)
    large = pattern(8 * MIB)
    transport.write(large)
    transport.write(b"later, ")
    transport.writeSequence([b"and", b" last"])
    assert notes.paused and (made is tcp.Server or not transport.is_clear)
    expected = large + b"later, and last"
    loop.until(peer.got(len(expected)))
    assert bytes(peer.received) == expected
    loop.until(lambda: not notes.paused)
    assert transport not in loop.reactor.getWriters()
    transport.write(b"again")
    peer.take()
    loop.until(peer.got(5))
    assert peer.received == b"again"


def test_a_little_that_waits_pauses_nobody(loop: Loop) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes)
    transport.registerProducer(notes, True)
    fill(transport)
    transport.write(b"x" * transport.bufferSize)
    assert not notes.paused
    transport.write(b"y")
    assert notes.paused
    loop.until(lambda: peer.at_end() or not notes.paused)
    loop.until(lambda: peer.at_end() or peer.received[-1:] == b"y")


def fill(transport: Any) -> None:
    """Write past the transport, until the kernel takes no more."""
    with pytest.raises(BlockingIOError):
        while True:
            transport.socket.send(bytes(MIB))


def test_a_producer_may_write_when_it_is_resumed(loop: Loop, made: Made) -> None:
    class More(Notes):
        def resumeProducing(self) -> None:
            super().resumeProducing()
            if self.resumes == 1:
                transport.write(b"more")

    notes = More()
    transport, peer = loop.connect(notes, made)
    transport.registerProducer(notes, True)
    transport.write(bytes(8 * MIB))
    loop.until(peer.got(8 * MIB + 4))
    assert peer.received.endswith(b"\0more")


def test_closing_sends_what_waits_first(loop: Loop, made: Made) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes, made)
    large = pattern(8 * MIB)
    transport.write(large)
    transport.loseConnection()
    loop.until(peer.at_end)
    assert peer.ended and bytes(peer.received) == large
    loop.until(lambda: notes.lost)
    assert notes.lost is not None and notes.lost.check(ConnectionDone)


def test_writing_after_the_close_has_begun_changes_nothing_in_the_order(loop: Loop, made: Made) -> None:
    transport, peer = loop.connect(Notes(), made)
    transport.write(b"first")
    transport.loseConnection()
    transport.write(b", second")
    loop.until(peer.at_end)
    assert peer.ended and peer.received == b"first, second"


def test_nothing_is_sent_behind_fin(loop: Loop, made: Made) -> None:
    notes = HalfCloseable()
    transport, peer = loop.connect(notes, made)
    transport.write(b"all")
    transport.loseWriteConnection()
    loop.until(lambda: notes.finished)
    transport.write(b"more")
    transport.writeSequence([b"and more"])
    loop.until(peer.at_end)
    assert peer.ended and peer.received == b"all"
    peer.send(b"still read")
    loop.until(lambda: notes.data == b"still read")


def test_nothing_is_sent_behind_an_abort(loop: Loop, made: Made) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes, made)
    transport.abortConnection()
    transport.write(b"more")
    transport.writeSequence([b"and more"])
    loop.until(peer.at_end)
    assert peer.reset and not peer.received
    assert notes.lost is not None and notes.lost.check(ConnectionAborted)


def test_an_error_of_sending_is_no_error_of_the_writer(loop: Loop, made: Made) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes, made)
    transport.pauseProducing()  # so that reading does not find out
    peer.abort()
    for _ in range(3):
        transport.write(b"x")
    loop.until(lambda: notes.lost)
    assert notes.lost is not None and notes.lost.check(ConnectionLost)


def test_an_error_of_sending_is_found_while_reading(loop: Loop, made: Made) -> None:
    notes = HalfCloseable()
    transport, peer = loop.connect(notes, made)
    peer.abort()
    transport.write(b"x")
    transport.write(b"x")
    loop.until(lambda: notes.lost)
    assert not notes.pieces


def test_writing_to_a_lost_connection(loop: Loop, made: Made) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes, made)
    peer.socket.close()
    loop.until(lambda: notes.lost)
    transport.write(b"x")
    transport.writeSequence([b"x"])
    assert made is tcp.Server or not transport.is_clear
    assert transport not in loop.reactor.getWriters()


def test_only_bytes_are_sent(loop: Loop, made: Made) -> None:
    transport, _ = loop.connect(Notes(), made)
    with pytest.raises(TypeError):
        transport.write("text")
    with pytest.raises(TypeError):
        transport.writeSequence(["text"])


# Receiving.


def test_reads_grow_with_what_comes(loop: Loop) -> None:
    notes = Notes()
    _, peer = loop.connect(notes)
    small, large = b"a" * 100, pattern(3 * LARGE)
    for _ in range(2):
        notes.pieces.clear()
        peer.send(small)
        loop.until(lambda: notes.pieces)
        assert notes.pieces == [small]
        peer.send(large)
        loop.until(peer.sent, lambda: len(notes.data) == len(small + large))
        assert notes.data == small + large
        assert len(notes.pieces[1]) == SMALL  # the first that is much is not known to be
        assert SMALL < max(map(len, notes.pieces)) <= LARGE
        peer.send(b"b")
        loop.until(lambda: notes.data.endswith(b"b"))


def test_what_may_be_many_messages_is_read_in_small_pieces(loop: Loop) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes)
    large = pattern(3 * LARGE)
    peer.send(large)
    loop.until(lambda: len(notes.pieces) > 1)
    read_little(transport)
    read_little(object())
    begun = len(notes.pieces)
    loop.until(peer.sent, lambda: len(notes.data) == len(large))
    assert notes.data == large
    assert max(map(len, notes.pieces[begun:])) <= SMALL


def test_what_was_read_is_the_protocols_own(loop: Loop) -> None:
    one, other = Notes(), Notes()
    peers = [loop.connect(notes)[1] for notes in (one, other)]
    for peer, byte in zip(peers, (b"1", b"2"), strict=True):
        peer.send(byte * 4 * LARGE)
    loop.until(lambda: all(peer.sent() for peer in peers) and len(one.data) == len(other.data) == 4 * LARGE)
    assert set(one.data) == {ord("1")} and set(other.data) == {ord("2")}


def test_what_is_read_is_lent_and_the_rest_is_asked_for_at_once(loop: Loop) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes)
    seen: list[bytes] = []

    def receive(view: memoryview) -> int:
        seen.append(bytes(view))
        if len(seen) == 1:
            peer.socket.send(b"world")  # is there before the reactor is asked
        return len(b"hello world") - len(b"".join(seen))

    lend(object(), receive)
    lend(transport, receive)
    peer.socket.send(b"hello ")
    loop.turn()
    assert seen == [b"hello ", b"world"] and not notes.pieces
    peer.finish()
    loop.until(lambda: notes.lost)
    assert notes.lost is not None and notes.lost.check(ConnectionDone)


def test_a_fault_of_whoever_it_is_lent_to_is_not_taken_for_the_peers(loop: Loop, errors: list[Failure]) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes)

    def receive(view: memoryview) -> int:
        raise OSError("this is ours")

    lend(transport, receive)
    peer.socket.send(b"x")
    loop.until(lambda: notes.lost)
    assert [str(error.value) for error in errors] == ["this is ours"]


def test_a_transport_may_be_paused(loop: Loop, made: Made) -> None:
    notes = Notes()
    transport, peer = loop.connect(notes, made)
    transport.pauseProducing()
    peer.send(b"x")
    loop.turn(5)
    assert not notes.pieces
    transport.resumeProducing()
    loop.until(lambda: notes.pieces)


@pytest.mark.parametrize("protocol", [Notes, HalfCloseable])
def test_the_peers_end(loop: Loop, made: Made, protocol: type[Notes]) -> None:
    notes = protocol()
    transport, peer = loop.connect(notes, made)
    peer.send(b"last")
    peer.finish()
    if isinstance(notes, HalfCloseable):
        loop.until(lambda: notes.eof)
        transport.write(b"answer")
        loop.until(peer.got(6))
        assert notes.lost is None
    else:
        loop.until(lambda: notes.lost)
        assert notes.lost is not None and notes.lost.check(ConnectionDone)
    assert notes.data == b"last"


def test_a_reset(loop: Loop, made: Made) -> None:
    notes = HalfCloseable()
    _, peer = loop.connect(notes, made)
    peer.abort()
    loop.until(lambda: notes.lost)
    assert notes.lost is not None and notes.lost.check(ConnectionLost) and not notes.eof


def test_a_paused_connection_with_something_to_send_that_is_reset(loop: Loop, made: Made) -> None:
    notes = HalfCloseable()
    transport, peer = loop.connect(notes, made)
    transport.pauseProducing()
    transport.write(bytes(8 * MIB))
    peer.abort()
    loop.until(lambda: notes.lost)
    assert notes.lost is not None and notes.lost.check(ConnectionLost)


# Making connections.


def test_both_ends_take_the_shorter_way(loop: Loop) -> None:
    ends: list[Notes] = []

    class Pair(Factory):
        def buildProtocol(self, addr: object) -> Notes:
            ends.append(Notes())
            return ends[-1]

    port = loop.reactor.listenTCP(0, Pair(), interface="127.0.0.1")
    shorten(port)
    endpoint = TCP4ClientEndpoint(Dialler(loop.reactor), "127.0.0.1", port.getHost().port)
    endpoint.connect(Pair())
    loop.until(lambda: len(ends) == 2)
    assert {type(end.transport) for end in ends} == {DirectServer, DirectClient}
    for one, other in (ends, ends[::-1]):
        one.transport.write(b"hello")  # type: ignore[union-attr]
        loop.until(lambda other=other: other.data == b"hello")  # type: ignore[misc]
    port.stopListening()


def test_nobody_is_there(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
    failures: list[Any] = []
    TCP4ClientEndpoint(Dialler(loop.reactor), "127.0.0.1", number).connect(Factory()).addErrback(failures.append)
    loop.until(lambda: failures)


def test_other_kinds_of_ports_are_left_alone() -> None:
    shorten(object())  # type: ignore[arg-type]
