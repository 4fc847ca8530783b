"""Which connection a request gets, and when it gets none."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from comfygate.gate.pool import UpstreamPool
from tests.unit.wires import Endpoint, Outcome


class Borrower:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def upstream_received(self, data: bytes) -> None:
        self.heard.append(data)

    def upstream_lost(self, reason: Failure) -> None:
        self.heard.append("lost")

    def upstream_full(self) -> None:
        self.heard.append("full")

    def upstream_drained(self) -> None:
        self.heard.append("drained")


class House:
    def __init__(self, *, at_once: bool = True, **options: Any) -> None:
        self.clock = Clock()
        self.endpoint = Endpoint(at_once=at_once)
        self.pool = UpstreamPool(self.endpoint, self.clock, name="GPU 0", **options)

    def acquire(self, *, fresh: bool = False) -> Outcome:
        return Outcome(self.pool.acquire(fresh=fresh))


def test_the_last_used_connection_is_used_again() -> None:
    house = House()
    first, second = house.acquire().value, house.acquire().value
    assert (house.pool.busy, house.endpoint.count) == (2, 2)
    assert not first.reused
    first.give_back()
    second.give_back()
    assert (house.pool.busy, house.pool.idle) == (0, 2)
    assert house.acquire().value is second
    assert second.reused
    assert house.endpoint.count == 2


def test_fresh_means_none_that_lay_idle() -> None:
    house = House()
    first = house.acquire().value
    first.give_back()
    assert house.acquire(fresh=True).value is not first
    assert house.pool.idle == 1


def test_at_most_so_many_are_made_at_one_time() -> None:
    house = House(at_once=False, connecting=3)
    waiting = [house.acquire() for _ in range(10)]
    assert len(house.endpoint.attempts) == 3
    while house.endpoint.attempts:
        house.endpoint.let_in()
    assert house.endpoint.most == 3
    assert all(not outcome.waits for outcome in waiting)
    assert len({outcome.value for outcome in waiting}) == 10


def test_beyond_the_limit_requests_wait_in_order() -> None:
    house = House(limit=2)
    first, second = house.acquire().value, house.acquire().value
    third, fourth = house.acquire(), house.acquire()
    assert third.waits and fourth.waits and house.pool.waiting == 2
    first.give_back()
    assert third.value is first and fourth.waits
    second.discard()  # makes room for a new one
    assert fourth.value not in (first, second)
    assert house.endpoint.count == 3


def test_waiting_has_an_end() -> None:
    house = House(limit=1, wait_timeout=30)
    held = house.acquire().value
    early = house.acquire()
    house.clock.advance(20)
    late = house.acquire()
    house.clock.advance(10)
    assert (early.error.status, early.error.type) == (503, "backend_busy")
    assert early.error.retry_after
    assert late.waits
    held.give_back()
    assert late.value is held
    assert not [call for call in house.clock.getDelayedCalls() if call.getTime() < house.clock.seconds()]


def test_the_queue_has_an_end() -> None:
    house = House(limit=1, max_waiting=2)
    house.acquire()
    assert [house.acquire().waits for _ in range(2)] == [True, True]
    assert house.acquire().error.status == 503


def test_who_no_longer_waits_is_forgotten() -> None:
    house = House(limit=1)
    held = house.acquire().value
    deferred = house.pool.acquire()
    gone, stays = Outcome(deferred), house.acquire()
    deferred.cancel()
    assert not gone.waits and house.pool.waiting == 1
    held.give_back()
    assert stays.value is held


def test_refused_connections_fail_one_request_each() -> None:
    house = House(at_once=False)
    waiting = [house.acquire(), house.acquire()]
    house.endpoint.error = ConnectionRefusedError()
    house.endpoint.let_in()
    assert (waiting[0].error.status, waiting[0].error.type) == (502, "backend_failed")
    assert waiting[1].waits
    house.endpoint.let_in()
    assert waiting[1].error.status == 502
    assert not house.clock.getDelayedCalls() or house.pool.waiting == 0


def test_connecting_takes_no_longer_than_it_may() -> None:
    house = House(at_once=False, connect_timeout=5)
    outcome = house.acquire()
    house.clock.advance(4.9)
    assert outcome.waits
    house.clock.advance(0.2)
    assert outcome.error.status == 502


def test_unused_connections_are_closed() -> None:
    house = House(idle_time=60)
    first, second = house.acquire().value, house.acquire().value
    first.give_back()
    house.clock.advance(30)
    second.give_back()
    house.clock.advance(30)
    assert house.pool.idle == 1 and house.endpoint.wires[0].aborted
    house.clock.advance(30)
    assert house.pool.idle == 0 and house.endpoint.wires[1].aborted
    assert not house.clock.getDelayedCalls()


def test_a_connection_that_the_peer_closed_is_not_lent() -> None:
    house = House()
    first = house.acquire().value
    first.give_back()
    house.endpoint.wires[0].lose()
    assert house.pool.idle == 0
    assert house.acquire().value is not first


def test_bytes_that_nobody_asked_for_end_a_connection() -> None:
    house = House()
    house.acquire().value.give_back()
    house.endpoint.wires[0].receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert house.endpoint.wires[0].aborted and house.pool.idle == 0


def test_the_borrower_hears_everything_until_it_gives_back() -> None:
    house, borrower = House(), Borrower()
    connection = house.acquire().value
    wire = house.endpoint.wires[0]
    connection.lend(borrower)
    wire.receive(b"x")
    wire.fill()
    wire.drain()
    connection.give_back()
    wire.fill()
    wire.drain()
    wire.lose()
    assert borrower.heard == [b"x", "full", "drained"]


def test_a_paused_connection_comes_back_reading() -> None:
    house = House()
    connection = house.acquire().value
    connection.pause()
    assert house.endpoint.wires[0].paused
    connection.give_back()
    assert not house.endpoint.wires[0].paused


def test_a_connection_that_is_still_writing_is_not_kept() -> None:
    house = House()
    connection = house.acquire().value
    house.endpoint.wires[0].fill()
    connection.give_back()
    assert house.endpoint.wires[0].aborted and house.pool.idle == 0


def test_closing_ends_everything() -> None:
    house, borrower = House(limit=2), Borrower()
    idle, busy = house.acquire().value, house.acquire().value
    busy.lend(borrower)
    waiting = house.acquire()
    house.endpoint.at_once = False
    idle.give_back()
    connecting = house.acquire(fresh=True)
    house.pool.close()
    assert waiting.value is idle
    assert borrower.heard == ["lost"]
    assert all(wire.aborted for wire in house.endpoint.wires)
    assert connecting.error.status == 502
    assert house.acquire().error.status == 502
    assert (house.pool.busy, house.pool.idle, house.pool.waiting) == (0, 0, 0)
    assert not house.clock.getDelayedCalls()


def test_closing_while_connecting() -> None:
    house = House(at_once=False)
    outcome = house.acquire()
    house.pool.close()
    assert outcome.error.status == 502
    house.endpoint.let_in()
    assert not house.clock.getDelayedCalls()


def test_an_exchange_may_end_after_its_pool_was_closed() -> None:
    house = House()
    connection = house.acquire().value
    house.pool.closed = True  # closed, and the abort not yet noticed
    connection.give_back()
    assert house.endpoint.wires[0].aborted and house.pool.idle == 0
