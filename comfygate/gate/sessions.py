"""One backend leg for each clientId, however many sockets a client opens with it.

ComfyUI keeps its sockets in a dictionary by clientId.  A second socket takes
the first one's place there, and when either ends, the entry is removed: the
newer one is then deaf for good.  So a backend never sees two at once: the old
leg is closed, and its TCP connection gone, before the next is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Protocol

from comfygate.gate.websocket_leg import Ending


class Link(Protocol):
    """A connection to a backend for one member."""

    @property
    def owner(self) -> Member:
        """Whom it is for."""

    @property
    def dismissed(self) -> bool:
        """Whether :meth:`end` was called."""

    def connect(self) -> None:
        """Begin."""

    def end(self, ending: Ending) -> None:
        """Close it; :meth:`Session.link_gone` follows when it is gone."""


class Member(Protocol):
    """A client that takes part in a session."""

    def make_link(self, gone: Callable[[Link, Ending], None]) -> Link:
        """A link that will call `gone` exactly once."""

    def silence(self) -> None:
        """A newer member gets the events from now on."""

    def lost_link(self, ending: Ending) -> None:
        """The link ended or could not be made; the member has left."""


class Session:
    """The sockets with one clientId on one backend, the newest being served."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self._forget = forget
        self._members: list[Member] = []
        self._link: Link | None = None

    def join(self, member: Member) -> None:
        """Serve `member` from now on, and silence the one before, which may still wait to be served."""
        if self._members:
            self._members[-1].silence()
        self._members.append(member)
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

    def link_gone(self, link: Link, ending: Ending) -> None:
        """Nothing is left of `link`."""
        self._link = None
        if not link.dismissed and link.owner in self._members:
            self._members.remove(link.owner)
            link.owner.lost_link(ending)
        self._step()

    def _step(self) -> None:
        wanted = self._members[-1] if self._members else None
        if self._link is not None:
            if self._link.owner is not wanted and not self._link.dismissed:
                self._link.end(Ending(1000))
        elif wanted is not None:
            self._link = wanted.make_link(self.link_gone)
            self._link.connect()
        else:
            self._forget()


class Sessions:
    """All sessions of a daemon; every gate over a backend must use the same."""

    def __init__(self) -> None:
        self._sessions: dict[Hashable, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, gpu_id: int, client_id: str | None) -> Session:
        """The session of `client_id`; one of its own for a client without."""
        key: Hashable = (gpu_id, client_id if client_id else object())
        if key not in self._sessions:
            self._sessions[key] = Session(partial(self._forget, key))
        return self._sessions[key]

    def _forget(self, key: Hashable) -> None:
        self._sessions.pop(key, None)
