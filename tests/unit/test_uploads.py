"""Uploads to several GPUs at once: the room in which they end, and the exchange that waits for its turn."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from zope.interface import implementer

from comfygate.gate.limits import Limits
from comfygate.gate.pool import UpstreamPool
from comfygate.gate.server import GateFactory
from comfygate.gate.site import IGateSite, Relay
from comfygate.gate.uploads import Turn, UploadRoom
from comfygate.http1 import Headers, RequestHead
from tests.unit.wires import Endpoint, Wire

# The room.


class Comings:
    """A room, and the order in which turns began."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.room = UploadRoom(self.clock, patience=30)
        self.began: list[str] = []
        self.turns: dict[str, Turn] = {}

    def come(self, *names: str) -> None:
        """The first figure of a name is the GPU."""
        for name in names:
            turn = self.turns[name] = self.room.turn(int(name[0]))
            turn.ask(lambda name=name: self.began.append(name))  # type: ignore[misc]

    def leave(self, *names: str) -> None:
        for name in names:
            self.turns[name].leave()

    def late(self, name: str) -> None:
        """Do what is due for one that waits."""
        when, act = self.turns[name].due()
        assert when <= self.clock.seconds()
        act()


def test_uploads_to_one_gpu_never_wait() -> None:
    room = Comings()
    room.come("0a", "0b", "0c")
    assert room.began == ["0a", "0b", "0c"]


def test_those_to_another_gpu_wait_until_the_last_has_left() -> None:
    room = Comings()
    room.come("0a", "0b", "1a", "1b")
    room.leave("0a")
    assert room.began == ["0a", "0b"] and room.turns["1a"].waiting
    room.leave("0b")
    assert room.began == ["0a", "0b", "1a", "1b"] and not room.turns["1a"].waiting


def test_who_comes_later_goes_later_so_that_no_gpu_starves() -> None:
    room = Comings()
    room.come("0a", "1a", "0b", "0c", "2a", "1b")
    assert room.began == ["0a"]
    for gone, expected in (("0a", ["1a"]), ("1a", ["0b", "0c"]), ("0b", []), ("0c", ["2a"]), ("2a", ["1b"])):
        room.began.clear()
        room.leave(gone)
        assert room.began == expected


def test_who_leaves_while_waiting_holds_nobody_up() -> None:
    room = Comings()
    room.come("0a", "1a", "0b")
    room.leave("1a")
    assert room.began == ["0a", "0b"]
    room.leave("0a", "0b", "0b")
    room.come("1b")
    assert room.began[-1] == "1b"


def test_a_stuck_gpu_holds_the_others_up_for_a_while_only() -> None:
    room = Comings()
    room.come("0a", "1a")
    room.clock.advance(10)
    room.come("2a")
    assert room.turns["1a"].due()[0] == 30
    room.clock.advance(20)
    with capturedLogs() as captured:
        room.late("1a")
    assert room.began == ["0a", "1a"]
    assert [(event["gpu_id"], event["others"]) for event in captured] == [(1, "0")]
    # From now on it is as if the stuck one were not there, for its own GPU as for others.
    room.leave("1a")
    assert room.began == ["0a", "1a", "2a"]
    room.come("0b", "1b")
    assert room.began == ["0a", "1a", "2a", "0b"]
    room.leave("2a")
    assert room.began[-1] == "1b"
    # Until it is done.
    room.leave("0a")
    room.come("0c")
    assert room.began[-1] == "1b"
    room.leave("1b")
    assert room.began[-1] == "0c"


def test_those_of_the_stuck_gpu_that_wait_already_are_let_in_with_the_one_that_overtakes() -> None:
    room = Comings()
    room.come("0a", "1a", "0b", "1b")
    room.clock.advance(30)
    room.late("1a")
    assert room.began == ["0a", "1a", "0b", "1b"]


def test_a_turn_that_nobody_asked_for_may_be_left() -> None:
    room = Comings()
    room.room.turn(0).leave()
    room.room.turn(0).abandon(None)
    room.come("1a")
    assert room.began == ["1a"]


# The exchange.


@implementer(IGateSite)
class Site:
    """Relays /0 to GPU 0 and /1 to GPU 1, each with a turn."""

    def __init__(self, pools: list[UpstreamPool], room: UploadRoom) -> None:
        self._pools = pools
        self._room = room
        self.options: dict[str, Any] = {}

    def admit(self, head: RequestHead, peer: str) -> Relay:
        gpu_id = int(head.target[1:2])
        return Relay(pool=self._pools[gpu_id], host=b"h", turn=self._room.turn(gpu_id), **self.options)

    def error_headers(self, head: RequestHead) -> Headers:
        return ()


class House:
    """One port, two GPUs, and clients as needed."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.endpoints = [Endpoint(), Endpoint()]
        self.pools = [UpstreamPool(endpoint, self.clock, name=f"GPU {n}") for n, endpoint in enumerate(self.endpoints)]
        self.site = Site(self.pools, UploadRoom(self.clock, patience=30))
        self.factory = GateFactory(self.site, self.clock, Limits())

    def client(self) -> Wire:
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        return Wire(protocol)

    def upload(self, gpu_id: int, *, framing: bytes = b"Content-Length: 5") -> tuple[Wire, Wire]:
        """Begin an upload of five bytes: both its ends, after the first two bytes."""
        client = self.client()
        client.receive(b"POST /%d HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % (gpu_id, framing))
        up = self.endpoints[gpu_id].wires[-1]
        client.receive(b"2\r\nhe\r\n" if b"chunked" in framing else b"he")
        assert up.take().endswith(b"2\r\nhe\r\n" if b"chunked" in framing else b"\r\n\r\nhe"), "it streams"
        return client, up


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def two(house: House) -> tuple[Wire, Wire, Wire, Wire]:
    """An upload to GPU 0 that is ending, and one to GPU 1 that waits."""
    first, up_first = house.upload(0)
    second, up_second = house.upload(1)
    first.receive(b"llo")
    second.receive(b"llo")
    assert up_first.take() == b"llo"
    assert up_second.take() == b""
    return first, up_first, second, up_second


def test_only_the_end_is_held_back_and_comes_after_the_others_answer() -> None:
    house = House()
    first, up_first, second, up_second = two(house)
    up_first.receive(OK[:-1])
    assert up_second.value() == b""
    up_first.receive(OK[-1:])
    assert first.take() == OK
    assert up_second.take() == b"llo"
    up_second.receive(OK)
    assert second.take() == OK
    assert [pool.idle for pool in house.pools] == [1, 1]
    # The connections are good for more.
    first.receive(b"POST /0 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
    assert up_first.take().endswith(b"\r\n\r\nx")


def test_a_chunked_upload_ends_with_its_last_chunk() -> None:
    house = House()
    _, up_first = first = house.upload(0)
    client, up = house.upload(1, framing=b"Transfer-Encoding: chunked")
    first[0].receive(b"llo")
    client.receive(b"3\r\nllo\r\n")
    assert up.take() == b"3\r\nllo\r\n"
    client.receive(b"0\r\n\r\n")
    assert up.take() == b""
    up_first.receive(OK)
    assert up.take() == b"0\r\n\r\n"
    up.receive(OK)
    assert client.take() == OK


def test_an_upload_that_comes_in_one_piece_waits_after_its_head() -> None:
    house = House()
    first, up_first = house.upload(0)
    first.receive(b"llo")
    client = house.client()
    client.receive(b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
    up = house.endpoints[1].wires[-1]
    assert up.take().endswith(b"\r\n\r\n")
    up_first.receive(OK)
    assert up.take() == b"hello"


@pytest.mark.parametrize("framing", [b"Content-Length: 0", b"Transfer-Encoding: chunked"])
def test_an_empty_upload(framing: bytes) -> None:
    house = House()
    client = house.client()
    client.receive(b"POST /0 HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % framing)
    up = house.endpoints[0].wires[-1]
    if b"chunked" in framing:
        client.receive(b"0\r\n\r\n")
        assert up.take().endswith(b"\r\n\r\n0\r\n\r\n")
    up.receive(OK)
    assert client.take() == OK
    _, up_other = other = house.upload(1)
    other[0].receive(b"llo")
    assert up_other.take() == b"llo"


def test_an_upload_that_waits_for_100() -> None:
    house = House()
    first, up_first = house.upload(0)
    first.receive(b"llo")
    client = house.client()
    client.receive(b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    up = house.endpoints[1].wires[-1]
    up.take()
    up.receive(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.receive(b"hello")
    assert up.take() == b""
    up_first.receive(OK)
    assert up.take() == b"hello"


def test_an_answer_that_comes_while_the_end_is_held_back() -> None:
    house = House()
    _, up_first, second, up_second = two(house)
    up_second.receive(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert second.take() == b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    assert up_second.aborted, "it still waits for three bytes, so it is no good for another request"
    up_first.receive(OK)
    assert b"llo" not in up_second.value()
    # The client has sent everything, and may go on.
    second.receive(b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
    assert house.endpoints[1].wires[-1].value().endswith(b"\r\n\r\nx")


def test_too_large_a_chunked_upload_never_comes_in() -> None:
    house = House()
    house.site.options = {"max_body": 4}
    client, up = house.upload(0, framing=b"Transfer-Encoding: chunked")
    client.receive(b"3\r\nllo\r\n0\r\n\r\n")
    assert client.value().startswith(b"HTTP/1.1 413 ") and up.aborted
    _, up_other = other = house.upload(1, framing=b"Content-Length: 3")
    other[0].receive(b"l")
    assert up_other.take() == b"l"


def test_a_client_that_leaves_while_it_waits() -> None:
    house = House()
    _, up_first, second, up_second = two(house)
    second.lose(ConnectionLost())
    assert up_second.aborted
    up_first.receive(OK)
    third, up_third = house.upload(0)
    third.receive(b"llo")
    assert up_third.take() == b"llo"
    assert b"llo" not in up_second.value()


def test_a_backend_that_is_lost_while_it_waits_or_ends() -> None:
    house = House()
    first, up_first, second, up_second = two(house)
    third, up_third = house.upload(1)
    third.receive(b"llo")
    up_second.lose(ConnectionLost())
    assert b" 502 " in second.value()
    up_first.lose(ConnectionLost())
    assert b" 502 " in first.value()
    assert up_third.take() == b"llo"


def test_a_client_that_leaves_at_the_end_is_not_followed_before_the_file_is_written() -> None:
    house = House()
    first, up_first, _, up_second = two(house)
    first.lose(ConnectionLost())
    assert not up_first.aborted
    assert up_second.take() == b"", "GPU 0 has the whole body, and will write it"
    up_first.receive(b"HTTP/1.1 200 OK\r\n")
    assert up_first.aborted
    assert up_second.take() == b"llo"


@pytest.mark.parametrize("lost", [True, False])
def test_a_backend_that_does_not_answer_after_its_client_has_left(lost: bool) -> None:
    house = House()
    first, up_first, _, up_second = two(house)
    first.lose(ConnectionLost())
    if lost:
        up_first.lose()
    else:
        house.clock.advance(30)
        assert up_first.aborted
    assert up_second.take() == b"llo"
    assert house.pools[0].busy == 0


def test_nobody_is_late_while_he_waits_for_his_turn() -> None:
    house = House()
    house.site.options = {"backend_timeout": 5.0}
    _, _, second, up_second = two(house)
    house.clock.advance(4)
    third, up_third = house.upload(0)  # GPU 0 shows no life on this connection
    third.receive(b"llo")
    house.clock.advance(1.5)
    # GPU 0 was silent for 5 s; its client is told, but its place is kept until it must have written.
    assert up_second.take() == b"" and second.value() == b""
    house.clock.advance(24.5)
    assert up_second.take() == b"llo" and second.value() == b""
    assert up_third.take() == b"llo", "its GPU is taken for stuck"
    # The wait counts from now.
    house.clock.advance(4.9)
    assert second.value() == b""
    house.clock.advance(0.2)
    assert second.value().startswith(b"HTTP/1.1 504 ")


def test_whoever_waits_too_long_goes_ahead() -> None:
    house = House()
    _, up_first, second, up_second = two(house)
    house.clock.advance(29)
    assert up_second.take() == b""
    with capturedLogs() as captured:
        house.clock.advance(1)
    assert up_second.take() == b"llo"
    assert any("goes ahead" in str(event.get("log_format")) for event in captured)
    up_second.receive(OK)
    assert second.take() == OK
    up_first.receive(OK)


def test_nothing_is_left_when_all_are_gone() -> None:
    house = House()
    first, up_first, second, up_second = two(house)
    up_first.receive(OK)
    first.lose()
    second.lose()
    for pool in house.pools:
        pool.close()
    assert up_second.aborted
    assert house.clock.getDelayedCalls() == []
