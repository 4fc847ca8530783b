"""The shorter way through Twisted's transports: the same as the long one, only shorter."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.python import log
from twisted.python.failure import Failure

from comfygate.gate import fast_path
from comfygate.gate.fast_path import LARGE, SMALL, SPLICED, DirectServer, Splice, splice
from tests.unit.loopback import PATIENCE, HalfCloseable, Loop, Notes, Peer, open_files, pattern

MIB = 1024 * 1024

Made = type[tcp.Server]


@pytest.fixture(params=["spun", "not spun"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    loop = Loop(spun=request.param == "spun")
    yield loop
    loop.close()


@pytest.fixture(params=[tcp.Server, DirectServer], ids=["Twisted's", "ours"])
def made(request: pytest.FixtureRequest) -> Made:
    """Both ways to send and receive must behave the same."""
    made: Made = request.param
    return made


@pytest.fixture
def errors() -> Iterator[list[Failure]]:
    """What is logged with a traceback."""
    found: list[Failure] = []

    def note(event: dict[str, Any]) -> None:
        if event.get("isError"):
            found.append(event["failure"])

    log.addObserver(note)
    yield found
    log.removeObserver(note)


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
    fast_path.read_little(transport)
    fast_path.read_little(object())
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

    fast_path.lend(object(), receive)
    fast_path.lend(transport, receive)
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

    fast_path.lend(transport, receive)
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
    fast_path.shorten(port)
    endpoint = TCP4ClientEndpoint(fast_path.Dialler(loop.reactor), "127.0.0.1", port.getHost().port)
    endpoint.connect(Pair())
    loop.until(lambda: len(ends) == 2)
    assert {type(end.transport) for end in ends} == {fast_path.DirectServer, fast_path.DirectClient}
    for one, other in (ends, ends[::-1]):
        one.transport.write(b"hello")  # type: ignore[union-attr]
        loop.until(lambda other=other: other.data == b"hello")  # type: ignore[misc]
    port.stopListening()


def test_nobody_is_there(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
    failures: list[Any] = []
    TCP4ClientEndpoint(fast_path.Dialler(loop.reactor), "127.0.0.1", number).connect(Factory()).addErrback(
        failures.append
    )
    loop.until(lambda: failures)


def test_other_kinds_of_ports_are_left_alone() -> None:
    fast_path.shorten(object())  # type: ignore[arg-type]


# The reactor.


def test_another_reactor_is_left_alone() -> None:
    fast_path.spin(Clock())
    reactor = SelectReactor()
    before = reactor.doIteration
    fast_path.spin(reactor)
    assert reactor.doIteration == before
    reactor.removeAll()
    reactor.waker.connectionLost(None)  # type: ignore[attr-defined]


def test_a_mistake_of_a_protocol_ends_its_connection_alone(loop: Loop, made: Made, errors: list[Failure]) -> None:
    class Broken(Notes):
        def dataReceived(self, data: bytes) -> None:
            raise RuntimeError("broken")

    broken, sound = Broken(), Notes()
    peers = [loop.connect(notes, made)[1] for notes in (broken, sound)]
    for peer in peers:
        peer.send(b"x")
    loop.until(lambda: broken.lost and sound.data == b"x")
    assert broken.lost is not None and broken.lost.check(RuntimeError)
    assert sound.lost is None
    assert [str(error.value) for error in errors] == ["broken"]


def test_a_connection_closed_by_another_ones_event(loop: Loop, made: Made, errors: list[Failure]) -> None:
    class Jealous(Notes):
        rival: Any

        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.rival.abortConnection()

    pair = [Jealous(), Jealous()]
    ends = [loop.connect(notes, made) for notes in pair]
    for notes, (rival, _) in zip(pair, ends[::-1], strict=True):
        notes.rival = rival
    for _, peer in ends:
        peer.send(b"x")
    loop.turn(3)  # both events come of one poll
    assert sorted(len(notes.pieces) for notes in pair) == [0, 1]
    loop.until(lambda: any(notes.lost for notes in pair))
    assert not errors


def test_a_descriptor_that_is_somebody_elses_by_now(loop: Loop, made: Made, errors: list[Failure]) -> None:
    """The event is the old one's; the new one finds nothing to read."""
    new = Notes()
    ends: list[Any] = []

    class Closing(Notes):
        rival: Any

        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            if not ends:
                number = self.rival.fileno()
                self.rival.connectionLost(Failure(ConnectionLost()))
                ends.append(loop.connect(new, made))
                while ends[-1][0].fileno() != number and len(ends) < 4:
                    ends.append(loop.connect(new, made))

    pair = [Closing(), Closing()]
    transports = [loop.connect(notes, made) for notes in pair]
    for notes, (rival, _) in zip(pair, transports[::-1], strict=True):
        notes.rival = rival
    for _, peer in transports:
        peer.send(b"x")
    loop.turn(3)
    assert not new.pieces and new.lost is None and not errors
    ends[-1][1].send(b"mine")
    loop.until(lambda: new.data == b"mine")


def test_timers_and_threads_wake_it(loop: Loop) -> None:
    called: list[str] = []
    loop.reactor.callLater(0, called.append, "timer")
    loop.reactor.callFromThread(called.append, "thread")
    loop.until(lambda: len(called) == 2)


class Busy(Notes):
    """Is sent one more byte for each that it has read."""

    peer: Peer

    def dataReceived(self, data: bytes) -> None:
        self.peer.send(b"x")


@pytest.mark.parametrize("how", ["timer", "new timer", "thread", "event"])
def test_nothing_waits_for_a_quiet_moment(loop: Loop, how: str) -> None:
    reactor = loop.reactor

    class Stopping(Busy):
        rounds = 0

        def dataReceived(self, data: bytes) -> None:
            self.rounds += 1
            if self.rounds == 1000 and how == "new timer":
                reactor.callLater(0, reactor.stop)
            elif self.rounds == 1000 and how == "event":
                reactor.stop()
            super().dataReceived(data)

    other = Thread(target=reactor.callFromThread, args=(reactor.stop,))
    for protocol in (Stopping(), Busy(), Busy()):
        _, protocol.peer = loop.connect(protocol)
        protocol.peer.send(b"x")
    if how == "timer":
        reactor.callLater(0.05, reactor.stop)
    elif how == "thread":
        other.start()
    started = time.monotonic()
    reactor.run(installSignalHandlers=False)
    assert time.monotonic() - started < PATIENCE / 2
    if how == "thread":
        other.join()  # it may still be about to wake the reactor up, which must be there then


@pytest.mark.parametrize("how", ["new timer", "event", "end of the shutdown"])
def test_what_an_event_brings_about_does_not_wait_for_the_next(loop: Loop, how: str) -> None:
    reactor = loop.reactor
    ended: Deferred[None] = Deferred()

    class Stopping(Notes):
        def dataReceived(self, data: bytes) -> None:
            if how == "new timer":
                reactor.callLater(0, reactor.stop)
            elif how == "event":
                reactor.stop()
            else:
                ended.callback(None)

    _, peer = loop.connect(Stopping())
    if how == "end of the shutdown":  # it waits for the last client, say
        reactor.addSystemEventTrigger("before", "shutdown", lambda: ended)
        reactor.addSystemEventTrigger("before", "shutdown", peer.send, b"x")
        reactor.callWhenRunning(reactor.stop)
    else:
        reactor.callWhenRunning(peer.send, b"x")
    guard = reactor.callLater(PATIENCE, reactor.crash)
    started = time.monotonic()
    reactor.run(installSignalHandlers=False)
    assert time.monotonic() - started < PATIENCE / 2
    guard.cancel()


# Large bodies.


class Coupled:
    """A source and a sink, each the other's concern as in a relay."""

    def __init__(self, loop: Loop, protocol: Callable[[], Notes] = Notes) -> None:
        self.loop = loop
        self.from_source, self.to_sink = protocol(), protocol()
        self.source, self.feeder = loop.connect(self.from_source)
        self.sink, self.reader = loop.connect(self.to_sink)
        self.sink.registerProducer(self.to_sink, True)
        self.to_sink.source = self.source
        self.moved = 0

    def splice(self, size: int) -> Splice:
        found = splice(self.source, self.sink, size, self._count)
        assert found is not None
        return found

    def _count(self, moved: int) -> None:
        self.moved += moved

    def held(self) -> Splice:
        """Let more come than is read; give the splice that holds some of it."""
        size = 16 * MIB
        spliced = self.splice(size)
        self.feeder.send(pattern(size))
        self.loop.until(lambda: self.feeder.sent() or self.to_sink.paused)
        assert spliced._held
        return spliced


@pytest.fixture
def pipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[fast_path._Pipes]:
    """None but those of the test; all must have come back."""
    pipes = fast_path._Pipes()
    monkeypatch.setattr(fast_path, "_PIPES", pipes)
    monkeypatch.setattr(fast_path, "_SPLICED", set())
    yield pipes
    assert pipes._lent == 0 and not fast_path._SPLICED
    assert len(pipes._idle) <= fast_path.IDLE_PIPES
    for pipe in pipes._idle:
        with pytest.raises(BlockingIOError):  # it is empty
            os.read(pipe[0], 1)
        fast_path._close(pipe)


@pytest.fixture
def coupled(loop: Loop, pipes: fast_path._Pipes) -> Coupled:
    return Coupled(loop)


@pytest.mark.parametrize("size", [1, SMALL, SPLICED - 1, SPLICED, SPLICED + 1, 8 * MIB + 7])
def test_exactly_so_many_bytes_go_by(loop: Loop, coupled: Coupled, size: int) -> None:
    body = pattern(size)
    spliced = coupled.splice(size)
    coupled.feeder.send(body + b"behind")
    loop.until(coupled.feeder.sent, coupled.reader.got(size))
    assert bytes(coupled.reader.received) == body
    loop.until(lambda: coupled.from_source.data == b"behind")
    assert spliced.over and coupled.moved == size
    assert not coupled.to_sink.paused
    coupled.reader.take()
    coupled.sink.write(b"end")
    loop.until(coupled.reader.got(3))
    assert coupled.reader.received == b"end"
    assert coupled.reader.read() == 0


def test_nobody_waits_for_more_than_one_splice(pipes: fast_path._Pipes) -> None:
    told: list[str] = []

    class Small(Notes):
        def dataReceived(self, data: bytes) -> None:
            told.append("small")

    with closing(Loop()) as loop:
        _, peer = loop.connect(Small())

        def moved(count: int) -> None:
            told.append("moved")
            peer.send(b"x")

        couples = [Coupled(loop) for _ in range(4)]
        for couple in couples:
            assert splice(couple.source, couple.sink, MIB, moved) is not None
            couple.feeder.send(bytes(MIB))
        for _ in range(8):
            before = told.count("moved")
            loop.turn()  # after which it looks at the timers
            assert told.count("moved") <= before + 1
        assert told[:8] == ["moved", "small"] * 4
        loop.until(*[met for couple in couples for met in (couple.feeder.sent, couple.reader.got(MIB))])


def test_a_splice_that_waits_behind_one_that_ends_it(loop: Loop, pipes: fast_path._Pipes) -> None:
    couples, spliced, order = [Coupled(loop), Coupled(loop)], [], []

    def mover(number: int) -> Callable[[int], None]:
        def moved(count: int) -> None:
            order.append(number)
            if len(order) == 1:
                spliced[1 - number].stop()
                couples[1 - number].source.abortConnection()
                couples[1 - number].sink.abortConnection()

        return moved

    for number, couple in enumerate(couples):
        found = splice(couple.source, couple.sink, MIB, mover(number))
        assert found is not None
        spliced.append(found)
        couple.feeder.send(bytes(MIB))
    loop.until(lambda: order)
    winner, loser = couples[order[0]], couples[1 - order[0]]
    loop.until(winner.feeder.sent, winner.reader.got(MIB), lambda: loser.from_source.lost and loser.to_sink.lost)
    assert set(order) == {order[0]} and winner.from_source.lost is None


def test_a_slow_sink_holds_the_source(loop: Loop, coupled: Coupled) -> None:
    spliced = coupled.held()
    before = coupled.moved
    loop.turn(20)
    assert coupled.moved == before and coupled.source not in loop.reactor.getReaders()
    assert not coupled.from_source.pieces
    loop.until(coupled.feeder.sent, coupled.reader.got(16 * MIB))
    assert coupled.reader.received == pattern(16 * MIB)
    assert spliced.over and coupled.moved == 16 * MIB
    assert coupled.to_sink.pauses == coupled.to_sink.resumes > 0
    assert coupled.sink not in loop.reactor.getWriters()


def test_a_source_that_is_read_all_the_same_waits(loop: Loop, coupled: Coupled) -> None:
    coupled.to_sink.source = None  # nobody pauses it
    coupled.held()
    loop.turn(20)
    loop.until(coupled.feeder.sent, coupled.reader.got(16 * MIB))
    assert coupled.reader.received == pattern(16 * MIB)


@pytest.mark.parametrize("how", ["abort", "finish and close"])
@pytest.mark.parametrize("held", [False, True])
def test_the_sink_dies(loop: Loop, coupled: Coupled, how: str, held: bool) -> None:
    if held:
        spliced = coupled.held()
    else:
        spliced = coupled.splice(16 * MIB)
        coupled.feeder.send(bytes(MIB))
        loop.until(coupled.reader.got(1))
    coupled.reader.abort() if how == "abort" else coupled.reader.socket.close()
    coupled.feeder.send(bytes(8 * MIB))
    loop.until(lambda: coupled.to_sink.lost)
    assert not spliced.over  # the owner has to
    spliced.stop()
    assert coupled.from_source.lost is None
    coupled.source.resumeProducing()
    loop.until(lambda: coupled.from_source.pieces)


@pytest.mark.parametrize(("how", "reason"), [("finish", ConnectionDone), ("abort", ConnectionLost)])
def test_the_source_dies(loop: Loop, coupled: Coupled, how: str, reason: type[Exception]) -> None:
    spliced = coupled.splice(16 * MIB)
    coupled.feeder.send(b"half")
    loop.until(coupled.reader.got(4))
    getattr(coupled.feeder, how)()
    loop.until(lambda: coupled.from_source.lost)
    assert coupled.from_source.lost is not None and coupled.from_source.lost.check(reason)
    assert coupled.moved == 4 and coupled.reader.received == b"half"
    spliced.stop()


def test_the_source_half_closes(loop: Loop, pipes: fast_path._Pipes) -> None:
    coupled = Coupled(loop, HalfCloseable)
    spliced = coupled.splice(16 * MIB)
    coupled.feeder.send(b"half")
    loop.until(coupled.reader.got(4))
    coupled.feeder.finish()
    source = coupled.from_source
    assert isinstance(source, HalfCloseable)
    loop.until(lambda: source.eof)
    assert source.lost is None
    spliced.stop()


def test_what_is_held_when_the_source_ends_still_goes(loop: Loop, coupled: Coupled) -> None:
    size = 16 * MIB
    spliced = coupled.splice(size + 1)
    coupled.feeder.send(pattern(size))
    loop.until(coupled.feeder.sent, lambda: coupled.reader.read(SMALL) < SMALL or True)
    loop.until(lambda: spliced._held)
    coupled.feeder.finish()
    loop.until(lambda: coupled.from_source.lost, coupled.reader.got(size))
    assert coupled.reader.received == pattern(size)
    spliced.stop()


@pytest.mark.parametrize("which", ["source", "sink"])
def test_an_abort_by_us(loop: Loop, coupled: Coupled, which: str) -> None:
    spliced = coupled.held()
    transport = getattr(coupled, which)
    transport.abortConnection()
    doing = vars(transport)["doRead"], vars(transport)["doWrite"]
    spliced.stop()
    assert (vars(transport)["doRead"], vars(transport)["doWrite"]) == doing  # what the abort has put there
    before = coupled.moved
    loop.turn(5)
    assert coupled.moved == before
    lost = coupled.from_source.lost if which == "source" else coupled.to_sink.lost
    assert lost is not None and lost.check(ConnectionAborted)


def test_a_stop_is_for_good(loop: Loop, coupled: Coupled, pipes: fast_path._Pipes) -> None:
    spliced = coupled.held()
    spliced.stop()
    spliced.stop()
    assert spliced.over and pipes._idle == []  # what it held is nobody's
    assert not {"doRead", "doWrite"} & (vars(coupled.source).keys() | vars(coupled.sink).keys())
    before = coupled.moved
    assert spliced._read() is None and spliced._write() is None
    assert coupled.moved == before


def test_an_empty_pipe_is_used_again(loop: Loop, coupled: Coupled, pipes: fast_path._Pipes) -> None:
    coupled.splice(10).stop()
    (idle,) = pipes._idle
    spliced = coupled.splice(5)
    assert spliced._pipe == idle and not pipes._idle
    coupled.feeder.send(b"12345")
    loop.until(coupled.reader.got(5))
    assert spliced.over and pipes._idle == [idle]


def test_no_more_pipes_than_allowed(
    loop: Loop, coupled: Coupled, pipes: fast_path._Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_path, "MOST_PIPES", 2)
    monkeypatch.setattr(fast_path, "IDLE_PIPES", 1)
    others = [Coupled(loop) for _ in range(2)]
    lent = [other.splice(10) for other in others]
    before = open_files()
    assert splice(coupled.source, coupled.sink, 10, coupled._count) is None
    for spliced in lent:
        spliced.stop()
    assert len(pipes._idle) == 1 and open_files() == before - 2
    coupled.splice(10).stop()


def test_no_descriptors_for_pipes(loop: Loop, coupled: Coupled, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> Any:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "pipe2", fail)
    assert splice(coupled.source, coupled.sink, 10, coupled._count) is None
    monkeypatch.undo()
    coupled.feeder.send(b"read")
    loop.until(lambda: coupled.from_source.data == b"read")


def test_no_memory_for_pipes(coupled: Coupled, pipes: fast_path._Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> Any:
        raise PermissionError

    monkeypatch.setattr(fast_path, "fcntl", fail)
    before = open_files()
    assert splice(coupled.source, coupled.sink, 10, coupled._count) is None
    assert open_files() == before


def test_what_cannot_be_spliced(loop: Loop, coupled: Coupled) -> None:
    plain, _ = loop.connect(Notes(), tcp.Server)
    assert splice(plain, coupled.sink, 10, coupled._count) is None
    assert splice(coupled.source, plain, 10, coupled._count) is None
    coupled.sink.write(bytes(16 * MIB))
    assert splice(coupled.source, coupled.sink, 10, coupled._count) is None  # it would overtake
    coupled.reader.abort()
    loop.until(lambda: coupled.to_sink.lost)
    assert splice(coupled.source, coupled.sink, 10, coupled._count) is None


@pytest.mark.parametrize("end", ["loseConnection", "loseWriteConnection", "abortConnection"])
def test_nothing_is_spliced_into_what_is_being_closed(loop: Loop, coupled: Coupled, end: str) -> None:
    getattr(coupled.sink, end)()
    assert splice(coupled.source, coupled.sink, 10, coupled._count) is None


def test_nothing_is_left_of_many(loop: Loop, coupled: Coupled) -> None:
    def transfer(n: int) -> None:
        spliced = coupled.splice(1000)
        coupled.feeder.send(pattern(1000) if n % 3 else b"")
        loop.until(lambda: not n % 3 or coupled.reader.got(1000)())
        assert spliced.over or not n % 3
        spliced.stop()
        coupled.reader.take()

    for n in range(10):
        transfer(n)
    before = open_files()
    for n in range(1000):
        transfer(n)
    assert open_files() == before
