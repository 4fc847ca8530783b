"""Hears what this ComfyUI says of the prompts that it runs, and tells ComfyGate's own sockets about it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

MONITORS = "comfygate-"
"""How the client ids of ComfyGate's sockets begin."""


class Teller:
    """Tells monitors what is to be said after an event; fails once at most, and never its caller.

    :param message: the type of the messages.
    :param event: what to say after an event: (type, data).
    :param send: sends a message to one client: (type, data, client id).
    :param clients: the client ids that are connected now.
    """

    def __init__(
        self,
        message: str,
        event: Callable[[Any, Any], dict[str, Any] | None],
        send: Callable[[str, Any, str], object],
        clients: Callable[[], Sequence[Any]],
    ) -> None:
        self._message = message
        self._event = event
        self._send = send
        self._clients = clients
        self._broken = False

    def heard(self, event: Any, data: Any) -> None:
        """ComfyUI said something, to whomever.  Never raises."""
        if self._broken:
            return
        try:
            said = self._event(event, data)
            if said is not None:
                for client in self._clients():
                    if isinstance(client, str) and client.startswith(MONITORS):
                        self._send(self._message, said, client)
        except Exception:
            self._broken = True
            logging.getLogger("comfygate").exception("[comfygate] %s is not told any more", self._message)


def listen(message: str, event: Callable[[Any, Any], dict[str, Any] | None]) -> None:
    """Let a :class:`Teller` hear everything that this ComfyUI says from now on.

    :raises Exception: of any kind, if this ComfyUI is not like those known.
    """
    server = importlib.import_module("server").PromptServer.instance
    executor = importlib.import_module("execution").PromptExecutor
    send_sync = server.send_sync
    teller = Teller(message, event, send_sync, lambda: list(server.sockets))

    def send_and_listen(event: Any, data: Any, sid: Any = None) -> None:
        send_sync(event, data, sid)
        teller.heard(event, data)

    server.send_sync = send_and_listen
    # What nobody is told of a prompt without a client id is noted all the same.
    add_message = getattr(executor, "add_message", None)
    if add_message is None:
        return

    def note_and_listen(self: Any, event: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        noted = add_message(self, event, data, *args, **kwargs)
        teller.heard(event, data)
        return noted

    executor.add_message = note_and_listen
