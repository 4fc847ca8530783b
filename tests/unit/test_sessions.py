"""Which of several sockets with one clientId is served, and when."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock

from comfygate.gate.sessions import Link, Session
from comfygate.gate.websocket_leg import ABNORMAL, Ending


class FakeLink:
    def __init__(self, owner: FakeMember, gone: Callable[[Link, Ending], None]) -> None:
        self.owner = owner
        self.opened = False
        self.dismissed = False
        self.gone = gone

    def connect(self) -> None:
        self.owner.events.append(f"{self.owner.name} connects")

    def end(self, ending: Ending) -> None:
        self.dismissed = True
        self.owner.events.append(f"{self.owner.name} ends {ending.code}")

    def is_gone(self, code: int = 1006) -> None:
        self.gone(self, Ending(code))


class FakeMember:
    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self.born = ord(name)
        self.events = events
        self.links: list[FakeLink] = []

    def make_link(self, gone: Callable[[Link, Ending], None]) -> FakeLink:
        self.links.append(FakeLink(self, gone))
        return self.links[-1]

    def silence(self) -> None:
        self.events.append(f"{self.name} silent")

    def wait(self) -> None:
        self.events.append(f"{self.name} waits")

    def endures(self, ending: Ending) -> bool:
        return ending.code == ABNORMAL

    def lost_link(self, ending: Ending) -> None:
        self.events.append(f"{self.name} lost {ending.code}")


class FakeWhole:
    """A backend's sessions, of which there is one."""

    def __init__(self, events: list[str]) -> None:
        self.clock = Clock()
        self.away = False
        self.wait = 0.0
        self.events = events

    def delays(self, failures: int) -> float:
        return 1.0 + failures

    def turn(self) -> float:
        return self.wait

    def heard(self, key: object) -> None:
        """Nobody asks."""

    def forget(self, key: object) -> None:
        self.events.append("forgotten")


class Stage:
    """A session, and whoever may take part in it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.whole = FakeWhole(self.events)
        self.session = Session(self.whole, "key")
        self.members = [FakeMember(name, self.events) for name in "abc"]

    def new(self) -> list[str]:
        """What has happened since the last look."""
        events, self.events[:] = list(self.events), []
        return events


def session() -> tuple[Session, FakeMember, FakeMember, FakeMember, list[str]]:
    stage = Stage()
    return (stage.session, *stage.members, stage.events)  # type: ignore[return-value]


def test_the_old_link_is_gone_before_the_new_one_is_made() -> None:
    served, a, b, c, events = session()
    served.join(a)
    served.join(b)
    served.join(c)
    # b will not be served while there is c, and must not wait for it.
    assert events == ["a connects", "a silent", "a ends 1000", "b silent"]
    a.links[0].is_gone()
    assert events[4:] == ["c connects"]
    served.leave(c, Ending(1001))
    served.leave(b, Ending(1001))
    c.links[0].is_gone()
    assert events[5:] == ["c ends 1001", "a connects"]
    served.leave(a, Ending(4000))
    served.leave(a, Ending(4000))
    a.links[1].is_gone()
    assert events[7:] == ["a ends 4000", "forgotten"]


def test_a_link_that_is_lost_costs_its_owner_only() -> None:
    served, a, b, _, events = session()
    served.join(a)
    a.links[0].is_gone(1011)
    assert events == ["a connects", "a lost 1011", "forgotten"]
    served.join(a)
    served.join(b)
    a.links[1].is_gone()
    b.links[0].is_gone(4000)
    assert events[3:] == ["a connects", "a silent", "a ends 1000", "b connects", "b lost 4000", "a connects"]


def test_a_member_that_comes_back_while_its_link_closes() -> None:
    served, a, b, _, events = session()
    served.join(a)
    served.join(b)
    served.leave(b, Ending())
    assert events == ["a connects", "a silent", "a ends 1000"]
    a.links[0].is_gone()
    assert events[3:] == ["a connects"]


def test_the_newest_is_served_in_whatever_order_they_join() -> None:
    served, a, b, _, events = session()
    served.join(b)
    served.join(a)
    assert events == ["b connects", "a silent"]


def test_a_connection_that_is_lost_is_made_again_after_a_while() -> None:
    stage = Stage()
    a = stage.members[0]
    stage.session.join(a)
    a.links[0].is_gone()
    assert stage.new() == ["a connects", "a waits"]
    stage.whole.clock.advance(0.9)
    assert stage.new() == []
    stage.whole.clock.advance(0.2)
    a.links[1].is_gone()
    assert stage.new() == ["a connects", "a waits"]
    stage.whole.clock.advance(1.9)
    assert stage.new() == []
    stage.session.leave(a, Ending())
    assert stage.new() == ["forgotten"]
    assert not stage.whole.clock.getDelayedCalls()


def test_nobody_is_served_while_the_backend_is_away() -> None:
    stage = Stage()
    a, b, _ = stage.members
    stage.session.join(a)
    stage.whole.away = True
    stage.session.suspend()
    assert stage.new() == ["a connects", "a ends 1001", "a waits"]
    stage.session.join(b)
    assert stage.new() == ["a silent", "b waits"]
    stage.whole.away = False
    stage.session.resume()
    assert stage.new() == []  # the old link is not gone yet
    a.links[0].is_gone()
    assert stage.new() == ["b connects"]


def test_a_failure_is_not_waited_out_when_the_backend_has_gone_and_come() -> None:
    stage = Stage()
    a = stage.members[0]
    stage.session.join(a)
    a.links[0].is_gone()
    stage.whole.away = True
    stage.session.suspend()
    assert not stage.whole.clock.getDelayedCalls()
    stage.whole.away = False
    stage.new()
    stage.session.resume()
    assert stage.new() == ["a connects"]


def test_a_turn_is_waited_for() -> None:
    stage = Stage()
    a, b, c = stage.members
    stage.whole.wait = 0.5
    stage.session.join(a)
    stage.session.join(b)
    stage.whole.clock.advance(0.4)
    assert stage.new() == ["a silent"]
    stage.whole.clock.advance(0.1)
    assert stage.new() == ["b connects"]
    stage.session.leave(b, Ending())
    b.links[0].is_gone()
    stage.session.leave(a, Ending())
    assert stage.new() == ["b ends 1005", "forgotten"]
    assert not stage.whole.clock.getDelayedCalls()
    stage.session.join(c)
    stage.whole.away = True
    stage.session.suspend()
    assert stage.new() == ["c waits"]
    assert not stage.whole.clock.getDelayedCalls()
