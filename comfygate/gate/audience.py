"""Everybody who listens to a backend, through its absences."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import count

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from comfygate.gate.dialling import DELAYS, dial_bucket
from comfygate.gate.sessions import Session
from comfygate.interfaces import IBackend
from comfygate.model import BackendState

HEARING = 5.0
"""Seconds that the clients of a backend that has come back are given to hear it."""


class Audience:
    """Everybody who listens to one backend.

    :param heard: called when everybody hears it who waited for it.
    :ivar away: whether the backend is not ready to be listened to.
    :ivar delays: see :data:`comfygate.gate.dialling.DELAYS`.
    """

    def __init__(self, clock: IReactorTime, heard: Callable[[], None], delays: Callable[[int], float]) -> None:
        self.clock = clock
        self.delays = delays
        self.away = True
        self._heard = heard
        self._sessions: dict[Hashable, Session] = {}
        self._returning: set[Hashable] = set()
        self._awaited: set[Hashable] = set()
        self._late: IDelayedCall | None = None
        self._bucket = dial_bucket()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def returning(self) -> bool:
        """Whether the backend is back, but not all who waited for it hear it yet."""
        return bool(self._returning)

    def get(self, key: Hashable) -> Session:
        """The session with this key."""
        if key not in self._sessions:
            self._sessions[key] = Session(self, key)
        return self._sessions[key]

    def dialling(self, key: Hashable) -> bool:
        """Whether this session is about to hear the backend; its own time-out bounds that."""
        session = self._sessions.get(key)
        if session is None or not session.dialling:
            return False
        self._awaited.add(key)
        return True

    def leave(self) -> None:
        """The backend is away."""
        self.away = True
        self._stop_waiting()
        for session in list(self._sessions.values()):
            session.suspend()

    def come_back(self) -> None:
        """The backend is there again."""
        if not self.away:
            return
        self.away = False
        self._returning = set(self._sessions)
        if self._returning:
            self._late = self.clock.callLater(HEARING, self._give_up)
        for session in list(self._sessions.values()):
            session.resume()

    def turn(self) -> float:
        """Take a turn at dialling: seconds until it comes."""
        return self._bucket.take(self.clock.seconds(), float("inf"))[1]

    def heard(self, key: Hashable) -> None:
        """A session hears the backend again, or not so soon."""
        if key in self._awaited:
            self._awaited.discard(key)
            self._heard()
        if key in self._returning:
            self._returning.discard(key)
            if not self._returning:
                self._stop_waiting()
                self._heard()

    def forget(self, key: Hashable) -> None:
        """Nothing is left of a session."""
        self._sessions.pop(key, None)
        self.heard(key)

    def _give_up(self) -> None:
        self._late = None
        self._returning.clear()
        self._heard()

    def _stop_waiting(self) -> None:
        self._returning.clear()
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Sessions:
    """All sessions of a daemon; every gate over a backend must use the same.

    :param heard: called when the clients of a backend that has come back hear
        it, so that no event of the next prompt is lost to them.
    """

    def __init__(
        self,
        clock: IReactorTime,
        heard: Callable[[], None] = lambda: None,
        delays: Callable[[int], float] = DELAYS,
    ) -> None:
        self._clock = clock
        self._heard = heard
        self._delays = delays
        self._audiences: dict[int, Audience] = {}
        self._births = count()

    def __len__(self) -> int:
        return sum(map(len, self._audiences.values()))

    def birth(self) -> int:
        """A number for a new member."""
        return next(self._births)

    def get(self, gpu_id: int, client_id: str | None) -> Session:
        """The session of `client_id`; one of its own for a client without."""
        return self._audience(gpu_id).get(client_id if client_id else object())

    def returning(self, gpu_id: int) -> bool:
        """Whether a backend is back, but not all who waited for it hear it yet."""
        return self._audience(gpu_id).returning

    def dialling(self, gpu_id: int, client_id: str) -> bool:
        """Whether the sockets with this clientId are about to hear a backend; if so, `heard` is called then."""
        return self._audience(gpu_id).dialling(client_id)

    def backend_changed(self, backend: IBackend) -> None:
        """A backend has come, or is gone."""
        audience = self._audience(backend.gpu_id)
        if backend.state is BackendState.READY:
            audience.come_back()
        else:
            audience.leave()

    def _audience(self, gpu_id: int) -> Audience:
        if gpu_id not in self._audiences:
            self._audiences[gpu_id] = Audience(self._clock, self._heard, self._delays)
        return self._audiences[gpu_id]
