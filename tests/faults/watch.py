"""A client's WebSocket, followed through every cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter, defaultdict

from tests.contract.comfyui_client import Listener
from tests.faults.verdict import LAST_EVENT

PAUSE = 0.05
"""Seconds between two tries to connect."""


class Watch:
    """Counts the events of each prompt that one client is told.

    :ivar events: by prompt_id, then by name.
    :ivar cuts: how often the connection ended before it was closed here.
    :ivar statuses: how many status messages came.
    :ivar connected: whether there is a connection.
    """

    def __init__(self, port: int, client_id: str) -> None:
        self.client_id = client_id
        self.events: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.cuts = 0
        self.statuses = 0
        self.connected = threading.Event()
        self._host = f"127.0.0.1:{port}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up."""
        self._stop.set()
        self._thread.join()

    @property
    def ended(self) -> int:
        """How many prompts are over, as far as the client was told."""
        return sum(1 for counts in list(self.events.values()) if counts[LAST_EVENT])

    def _follow(self) -> None:
        while not self._stop.is_set():
            # A refused upgrade and a stream that breaks off are assertions of Listener.
            with contextlib.suppress(OSError, AssertionError), Listener.open(self._host, self._target) as listener:
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
            if not listener.buffer and not self._arrives(listener.stream):
                continue
            message = listener.next()
            if message is None:
                return
            if isinstance(message, dict):
                self._note(message["type"], message["data"])

    @staticmethod
    def _arrives(stream: socket.socket) -> bool:
        # Waiting inside a message would lose the part that has arrived.
        stream.settimeout(0.2)
        try:
            stream.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        return True

    def _note(self, kind: str, data: dict[str, object]) -> None:
        if kind == "status":
            self.statuses += 1
        prompt_id = data.get("prompt_id")
        if not isinstance(prompt_id, str):
            return
        if kind == "executing" and data.get("node") is None:
            kind = LAST_EVENT
        self.events[prompt_id][kind] += 1
