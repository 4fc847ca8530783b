"""Parts of bodies that the kernel moves: all of them arrive, and no pipe is left."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost

from comfygate.gate.fast_path import pipes as pipes_module
from comfygate.gate.fast_path import splices
from comfygate.gate.fast_path.pipes import SIZE, Pipes
from comfygate.gate.fast_path.splices import splice
from comfygate.gate.fast_path.transports import SMALL
from tests.unit.loopback import Coupled, HalfCloseable, Loop, Notes, open_files, pattern

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [1, SMALL, SIZE - 1, SIZE, SIZE + 1, 8 * MIB + 7])
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


def test_the_source_half_closes(loop: Loop, pipes: Pipes) -> None:
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


def test_a_stop_is_for_good(loop: Loop, coupled: Coupled, pipes: Pipes) -> None:
    spliced = coupled.held()
    spliced.stop()
    spliced.stop()
    assert spliced.over and pipes.idle == []  # what it held is nobody's
    assert not {"doRead", "doWrite"} & (vars(coupled.source).keys() | vars(coupled.sink).keys())
    before = coupled.moved
    assert spliced._read() is None and spliced._write() is None
    assert coupled.moved == before


def test_an_empty_pipe_is_used_again(loop: Loop, coupled: Coupled, pipes: Pipes) -> None:
    coupled.splice(10).stop()
    (idle,) = pipes.idle
    spliced = coupled.splice(5)
    assert spliced._pipe == idle and not pipes.idle
    coupled.feeder.send(b"12345")
    loop.until(coupled.reader.got(5))
    assert spliced.over and pipes.idle == [idle]


def test_no_more_pipes_than_allowed(loop: Loop, coupled: Coupled, monkeypatch: pytest.MonkeyPatch) -> None:
    pipes = Pipes(most=2, most_idle=1)
    monkeypatch.setattr(splices, "PIPES", pipes)
    others = [Coupled(loop) for _ in range(2)]
    lent = [other.splice(10) for other in others]
    before = open_files()
    assert splice(coupled.source, coupled.sink, 10, coupled._count) is None
    for spliced in lent:
        spliced.stop()
    assert len(pipes.idle) == 1 and open_files() == before - 2
    coupled.splice(10).stop()
    pipes.close()
    assert open_files() == before - 4


def test_no_descriptors_for_pipes(loop: Loop, coupled: Coupled, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> Any:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "pipe2", fail)
    assert splice(coupled.source, coupled.sink, 10, coupled._count) is None
    monkeypatch.undo()
    coupled.feeder.send(b"read")
    loop.until(lambda: coupled.from_source.data == b"read")


def test_no_memory_for_pipes(coupled: Coupled, pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> Any:
        raise PermissionError

    monkeypatch.setattr(pipes_module, "fcntl", fail)
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
