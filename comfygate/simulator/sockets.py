"""WebSockets: who listens, and what is sent to them, in one order, by one task.

The task waits for each send, as ComfyUI's does: a client that does not read
holds up everybody's messages.
"""

from __future__ import annotations

import asyncio
import json
import struct
import uuid
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web

from comfygate.simulator.console import Console

PREVIEW = 1
PREVIEW_WITH_METADATA = 4

Message = tuple[str | int, Any, Any]
"""Type (a number for a binary one), content, and the client or None for all."""


class Sockets:
    """The open sockets by client id, and the messages on their way.

    :ivar listeners: are told of everything that is posted: (type, content).
    """

    def __init__(self, console: Console, features: dict[str, Any]) -> None:
        self.open: dict[Any, web.WebSocketResponse] = {}
        self.flags: dict[Any, dict[str, Any]] = {}
        self.current_client: Any = None
        self.current_node: str | None = None
        self.status: Callable[[], dict[str, Any]] = dict
        self.listeners: list[Callable[[Any, Any], None]] = []
        self._console = console
        self._features = features
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()

    def post(self, type: str | int, data: Any, client: Any = None) -> None:
        """Send later, in order, and tell the listeners; may be called from any thread."""
        self.post_alone(type, data, client)
        self.note(type, data)

    def post_alone(self, type: str | int, data: Any, client: Any = None) -> None:
        """Send later, in order; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._messages.put_nowait, (type, data, client))

    def note(self, type: str | int, data: Any) -> None:
        """Tell the listeners of something that no client may be told."""
        for listener in self.listeners:
            listener(type, data)

    def post_status(self) -> None:
        """Tell everyone how long the queue is."""
        self.post("status", {"status": self.status()})

    def wants_metadata(self, client: Any) -> bool:
        """Whether `client` negotiated previews with metadata."""
        return client in self.flags and self.flags[client].get("supports_preview_metadata") is True

    async def publish(self) -> None:
        """Send what is posted, for ever.

        :raises TypeError: a client id that is a list or an object.  This ends
            the program, as it ends ComfyUI.
        """
        while True:
            await self.send(*await self._messages.get())

    async def send(self, type: str | int, data: Any, client: Any) -> None:
        """Send one message now, to one client or to all."""
        names = list(self.open) if client is None else [client]
        receivers = [self.open[name] for name in names if name in self.open]
        content = self._encode(type, data) if receivers else ""
        for socket in receivers:
            try:
                await (socket.send_bytes(content) if isinstance(content, bytes) else socket.send_str(content))
            except (aiohttp.ClientError, ConnectionError) as error:
                self._console.say(f"send error: {error}")

    @staticmethod
    def _encode(type: str | int, data: Any) -> str | bytes:
        if isinstance(type, int):
            return struct.pack(">I", type) + bytes(data)
        return json.dumps({"type": type, "data": data})

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """GET /ws: one client, until it leaves."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = request.query.get("clientId", "") or uuid.uuid4().hex
        # The newest takes the place; the older one is not closed, and when it
        # leaves it takes the newer one's place with it.
        self.open.pop(client, None)
        self.open[client] = socket
        self.flags[client] = {}
        try:
            await self.send("status", {"status": self.status(), "sid": client}, client)
            if self.current_client == client and self.current_node is not None:
                await self.send("executing", {"node": self.current_node}, client)
            await self._listen(socket, client)
        finally:
            self.open.pop(client, None)
            self.flags.pop(client, None)
        return socket

    async def _listen(self, socket: web.WebSocketResponse, client: str) -> None:
        first = True
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            try:
                data = json.loads(message.data)
                if first and data.get("type") == "feature_flags":
                    self.flags[client] = data.get("data", {})
                    await self.send("feature_flags", self._features, client)
                first = False
            except (ValueError, AttributeError, KeyError) as error:
                self._console.say(f"bad WebSocket message of {client}: {error}")
