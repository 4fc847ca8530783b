"""One backend leg for each clientId, however many sockets a client opens with it.

ComfyUI keeps its sockets in a dictionary by clientId.  A second socket takes
the first one's place there, and when either ends, the entry is removed: the
newer one is then deaf for good.  So a backend never sees two at once: the old
leg is closed, and its TCP connection gone, before the next is opened.

A session outlives its backend's process: while that is away, nobody has a leg.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from comfygate.gate.dialling import Failures
from comfygate.gate.websocket_leg import GOING_AWAY, SERVICE_RESTART, Ending

UNWILLING = Ending(SERVICE_RESTART, "the backend does not accept the WebSocket")


class Link(Protocol):
    """A connection to a backend for one member."""

    @property
    def owner(self) -> Member:
        """Whom it is for."""

    @property
    def opened(self) -> bool:
        """Whether the backend has accepted it."""

    @property
    def dismissed(self) -> bool:
        """Whether :meth:`end` was called."""

    def connect(self) -> None:
        """Begin."""

    def end(self, ending: Ending) -> None:
        """Close it; :meth:`Session.link_gone` follows when it is gone."""


class Member(Protocol):
    """A client that takes part in a session."""

    @property
    def born(self) -> int:
        """A number that is greater than those of older members."""

    def make_link(self, gone: Callable[[Link, Ending], None]) -> Link:
        """A link that will call `gone` exactly once."""

    def silence(self) -> None:
        """A newer member gets the events from now on."""

    def wait(self) -> None:
        """The member is the newest, but the backend is away; told again whenever anything changes."""

    def endures(self, ending: Ending) -> bool:
        """Whether the member wants another link after one that ended like this."""

    def lost_link(self, ending: Ending) -> None:
        """The link ended or could not be made; the member has left."""


class Whole(Protocol):
    """What the sessions of one backend have in common."""

    clock: IReactorTime
    away: bool
    delays: Callable[[int], float]

    def turn(self) -> float:
        """Take a turn at dialling: seconds until it comes."""

    def heard(self, key: Hashable) -> None:
        """A session hears the backend again, or not so soon."""

    def forget(self, key: Hashable) -> None:
        """Nothing is left of a session."""


class Session:
    """The sockets with one clientId on one backend, the newest being served.

    :param audience: the backend's.
    :param key: by which the audience knows it.
    """

    __slots__ = ("_audience", "_failures", "_key", "_link", "_made_at", "_members", "_retry", "_turn")

    def __init__(self, audience: Whole, key: Hashable) -> None:
        self._audience = audience
        self._key = key
        self._members: list[Member] = []
        self._link: Link | None = None
        self._made_at = 0.0
        self._failures = Failures()
        self._retry: IDelayedCall | None = None  # the backend is said to be ready, but did not take the last link
        self._turn: IDelayedCall | None = None  # others are dialling

    @property
    def dialling(self) -> bool:
        """Whether somebody is about to be heard by the backend for the first time."""
        if not self._members or self._audience.away or self._failures or self._retry is not None:
            return False
        return self._link is None or self._link.dismissed or not self._link.opened

    def join(self, member: Member) -> None:
        """Serve `member` from now on, unless there is a newer one, and silence the one before.

        That one may still wait to be served.
        """
        before = self._members[-1] if self._members else None
        insort(self._members, member, key=attrgetter("born"))
        if self._members[-1] is not member:
            member.silence()
            return
        if before is not None:
            before.silence()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._step()

    def leave(self, member: Member, ending: Ending) -> None:
        """Serve `member` no more, and the newest of the silent ones instead.

        :param ending: how to close its link.
        """
        if member not in self._members:
            return
        self._members.remove(member)
        if self._link is not None and self._link.owner is member:
            self._link.end(ending)
        self._step()

    def link_opened(self) -> None:
        """The backend has accepted the link."""
        self._made_at = self._audience.clock.seconds()
        self._audience.heard(self._key)

    def link_gone(self, link: Link, ending: Ending) -> None:
        """Nothing is left of `link`."""
        self._link = None
        if not link.dismissed and link.owner in self._members:
            self._lost(link, ending)
        self._step()

    def suspend(self) -> None:
        """The backend is away: nobody is served."""
        self._cancel()
        self._step()

    def resume(self) -> None:
        """The backend is back."""
        self._failures.forget()
        self._step()

    def _lost(self, link: Link, ending: Ending) -> None:
        self._audience.heard(self._key)
        owner, now = link.owner, self._audience.clock.seconds()
        endures = owner.endures(ending)
        if endures and self._audience.away:
            return
        delay = self._failures.delay(now, now - self._made_at if link.opened else 0.0, self._audience.delays)
        if endures and delay is not None:
            self._retry = self._audience.clock.callLater(delay, self._try_again)
        else:
            self._members.remove(owner)
            owner.lost_link(UNWILLING if endures else ending)

    def _try_again(self) -> None:
        self._retry = None
        self._step()

    def _step(self) -> None:
        wanted = self._members[-1] if self._members else None
        if self._link is not None:
            if (self._audience.away or self._link.owner is not wanted) and not self._link.dismissed:
                self._link.end(Ending(GOING_AWAY if self._audience.away else 1000))
        elif wanted is None:
            self._cancel()
            self._audience.forget(self._key)
        elif not self._audience.away and self._retry is None and self._turn is None:
            self._dial_in_turn()
        if self._members and (self._audience.away or self._retry is not None):
            self._members[-1].wait()

    def _dial_in_turn(self) -> None:
        wait = self._audience.turn()
        if wait:
            self._turn = self._audience.clock.callLater(wait, self._dial)
        else:
            self._dial()

    def _dial(self) -> None:
        self._turn = None
        self._link = self._members[-1].make_link(self.link_gone)
        self._link.connect()

    def _cancel(self) -> None:
        for timer in (self._retry, self._turn):
            if timer is not None:
                timer.cancel()
        self._retry = self._turn = None
