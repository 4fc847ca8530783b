"""All sessions on a backend, while it goes and comes back."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from comfygate.gate.audience import HEARING, Sessions
from comfygate.gate.dialling import A_SECOND, AT_ONCE
from comfygate.gate.websocket_leg import Ending
from comfygate.model import BackendState
from tests.unit.fakes import FakeBackend
from tests.unit.test_sessions import FakeMember


def test_sessions_are_by_backend_and_client_id() -> None:
    sessions = Sessions(Clock())
    assert sessions.get(0, "a") is sessions.get(0, "a")
    assert len({id(s) for s in [sessions.get(0, "a"), sessions.get(1, "a"), sessions.get(0, "b")]}) == 3
    assert sessions.get(0, None) is not sessions.get(0, None)
    assert sessions.get(0, "") is not sessions.get(0, "")


class House:
    """Some members of as many sessions on one backend that is away."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.heard = 0
        self.sessions = Sessions(self.clock, self._hear, delays=lambda failures: 1.0)
        self.backend: Any = FakeBackend(0)
        self.become(BackendState.STARTING)
        self.events: list[str] = []
        self.members = [FakeMember(chr(ord("a") + n), self.events) for n in range(count)]
        for member in self.members:
            self.sessions.get(0, member.name).join(member)
        self.events.clear()

    def become(self, state: BackendState) -> None:
        self.backend.become(state)
        self.sessions.backend_changed(self.backend)

    def open(self, n: int) -> None:
        self.members[n].links[-1].opened = True
        self.sessions.get(0, self.members[n].name).link_opened()

    def _hear(self) -> None:
        self.heard += 1


def test_a_backend_is_away_until_it_is_said_to_be_ready() -> None:
    house = House(2)
    assert not house.sessions.returning(0)
    house.become(BackendState.READY)
    assert house.events == ["a connects", "b connects"]
    house.become(BackendState.READY)
    house.become(BackendState.DOWN)
    assert house.events[2:] == ["a ends 1001", "a waits", "b ends 1001", "b waits"]


def test_it_is_known_when_everybody_hears_a_backend_again() -> None:
    house = House(3)
    house.become(BackendState.READY)
    assert house.sessions.returning(0)
    house.open(0)
    house.members[1].links[0].is_gone()  # it hears later, if ever
    assert (house.sessions.returning(0), house.heard) == (True, 0)
    house.sessions.get(0, "c").leave(house.members[2], Ending())
    house.members[2].links[0].is_gone()
    assert (house.sessions.returning(0), house.heard) == (False, 1)
    house.become(BackendState.DOWN)
    house.become(BackendState.READY)
    house.clock.advance(HEARING)
    assert (house.sessions.returning(0), house.heard) == (False, 2)


def test_nobody_is_waited_for_in_vain() -> None:
    house = House(0)
    house.become(BackendState.READY)
    assert not house.sessions.returning(0)
    house = House(1)
    house.become(BackendState.READY)
    house.become(BackendState.DOWN)
    assert not house.sessions.returning(0)
    assert not house.clock.getDelayedCalls()
    assert house.heard == 0


def test_not_all_dial_at_once() -> None:
    house = House(AT_ONCE + 2)
    house.become(BackendState.READY)
    assert len(house.events) == AT_ONCE
    house.clock.advance(1 / A_SECOND)
    assert len(house.events) == AT_ONCE + 1
    house.become(BackendState.DOWN)
    house.clock.advance(1)
    assert sum(event.endswith("connects") for event in house.events) == AT_ONCE + 1
