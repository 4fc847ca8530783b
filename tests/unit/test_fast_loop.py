"""The reactor's loop on the shorter way: nothing is lost, nobody waits for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from threading import Thread
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from comfygate.gate.fast_path.loop import spin
from comfygate.gate.fast_path.pipes import Pipes
from comfygate.gate.fast_path.splices import splice
from tests.unit.loopback import PATIENCE, Coupled, Loop, Made, Notes, Peer

MIB = 1024 * 1024


def test_another_reactor_is_left_alone() -> None:
    spin(Clock())
    reactor = SelectReactor()
    before = reactor.doIteration
    spin(reactor)
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


# Splices wait for everything else.


def test_nobody_waits_for_more_than_one_splice(pipes: Pipes) -> None:
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


def test_a_splice_that_waits_behind_one_that_ends_it(loop: Loop, pipes: Pipes) -> None:
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
