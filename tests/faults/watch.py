"""A client's WebSocket, followed through every cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable

from tests.contract.comfyui_client import Listener
from tests.faults.verdict import LAST_EVENT

PAUSE = 0.05
"""Seconds between two tries to connect."""

SEVERAL = '{"type": "feature_flags", "data": {"supports_concurrent_prompts": true}}'

FOREVER = 3600.0
"""Seconds that a connection may say nothing; :meth:`Watch.close` ends the wait."""

Events = defaultdict[str, Counter[str]]


class Watch:
    """Counts the events of each prompt that one client is told on one port.

    :param several: says that it can follow several prompts at once.
    :ivar events: by prompt_id, then by name; `LAST_EVENT` counts within one
        connection, since nobody can tell what a daemon that died has told.
    :ivar cuts: how often the connection ended before it was closed here.
    :ivar statuses: how many status messages came.
    :ivar connected: whether there is a connection.
    """

    def __init__(self, port: int, client_id: str, *, several: bool = False) -> None:
        self.client_id = client_id
        self._several = several
        self.events: Events = defaultdict(Counter)
        self.cuts = 0
        self.statuses = 0
        self.connected = threading.Event()
        self._host = f"127.0.0.1:{port}"
        self._listener: Listener | None = None
        self._over: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up."""
        self._stop.set()
        listener = self._listener
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.stream.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.is_set():
            # A refused upgrade and a stream that breaks off are assertions of Listener.
            with contextlib.suppress(OSError, AssertionError), Listener.open(self._host, self._target) as listener:
                self._listener = listener
                if self._several:
                    listener.send(SEVERAL)
                self._over.clear()
                self.connected.set()
                self._read(listener)
            if self.connected.is_set() and not self._stop.is_set():
                self.cuts += 1
            self.connected.clear()
            self._stop.wait(PAUSE)

    @property
    def _target(self) -> str:
        return f"/ws?clientId={self.client_id}"

    def _read(self, listener: Listener) -> None:
        while not self._stop.is_set():
            message = listener.next(FOREVER)
            if message is None:
                return
            if isinstance(message, dict):
                self._note(message["type"], message["data"])

    def _note(self, kind: str, data: dict[str, object]) -> None:
        if kind == "status":
            self.statuses += 1
        prompt_id = data.get("prompt_id")
        if not isinstance(prompt_id, str):
            return
        if kind == "executing" and data.get("node") is None:
            self._over[prompt_id] += 1
            self.events[prompt_id][LAST_EVENT] = max(self.events[prompt_id][LAST_EVENT], self._over[prompt_id])
        else:
            self.events[prompt_id][kind] += 1


TOLD_TO_ALL = (LAST_EVENT, "execution_error", "execution_interrupted")
"""Events that all sockets of a client get, where they are the gate's own."""


def merged(watches: Iterable[Watch]) -> dict[str, Counter[str]]:
    """What one client was told on several ports: how often each event happened."""
    found: Events = defaultdict(Counter)
    for watch in watches:
        for prompt_id, counts in list(watch.events.items()):
            seen = found[prompt_id]
            for kind, count in list(counts.items()):
                seen[kind] = max(seen[kind], count) if kind in TOLD_TO_ALL else seen[kind] + count
    return dict(found)
