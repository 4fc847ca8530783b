"""/simulator: routes for load and fault tests, which no ComfyUI has."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
from typing import Any

from aiohttp import web

from comfygate.simulator import faults
from comfygate.simulator.machine import Machine
from comfygate.simulator.sockets import PREVIEW, Sockets

BLOCK = bytes(range(256)) * 256
"""64 KiB, repeated to make bodies: byte n of a body is n modulo 256."""


class Load:
    """Bodies, sinks, delays, floods and ends."""

    def __init__(self, machine: Machine, sockets: Sockets) -> None:
        self._machine = machine
        self._sockets = sockets

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/simulator/bytes", self._bytes),
            web.post("/simulator/sink", self._sink),
            web.put("/simulator/sink", self._sink),
            web.get("/simulator/sleep", self._sleep),
            web.get("/simulator/flood", self._flood),
            web.get("/simulator/state", self._state),
            web.post("/simulator/exit", self._exit),
            web.post("/simulator/fault", self._fault),
            web.route("*", "/simulator/echo", self._echo),
        ]

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        """`size` bytes; with `chunked` in chunks, with `cut` the connection breaks after so many."""
        size = int(request.query.get("size", "0"))
        cut = int(request.query.get("cut", size + 1))
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        if request.query.get("chunked"):
            response.enable_chunked_encoding()
        else:
            response.content_length = size
        await response.prepare(request)
        left = min(size, cut) if request.method == "GET" else 0
        while left > 0:
            block = BLOCK if left >= len(BLOCK) else BLOCK[:left]
            await response.write(block)
            left -= len(block)
        if cut < size and request.transport is not None:
            await asyncio.sleep(0.05)  # lets the kernel send what was written before the reset
            request.transport.abort()
        return response

    async def _sink(self, request: web.Request) -> web.Response:
        """Read a body of any length; `pause` seconds after each piece make a slow reader."""
        pause = float(request.query.get("pause", "0"))
        digest = hashlib.sha256()
        count = 0
        async for piece in request.content.iter_any():
            digest.update(piece)
            count += len(piece)
            if pause:
                await asyncio.sleep(pause)
        return web.json_response({"bytes": count, "sha256": digest.hexdigest()})

    async def _sleep(self, request: web.Request) -> web.Response:
        seconds = float(request.query.get("seconds", "1"))
        await asyncio.sleep(seconds)
        return web.json_response({"slept": seconds})

    async def _flood(self, request: web.Request) -> web.Response:
        """Send `messages` of `size` bytes each to one client, waiting for it to take them."""
        client, kind = request.query["client_id"], request.query.get("kind", "progress")
        count, size = int(request.query.get("messages", "1")), int(request.query.get("size", "100"))
        if client not in self._sockets.open:
            return web.json_response({"sent": 0}, status=404)
        for number in range(count):
            await self._sockets.send(*_flood_message(kind, number, count, size), client)
        return web.json_response({"sent": count})

    async def _state(self, request: web.Request) -> web.Response:
        memory = self._machine.memory
        facts = {
            "pid": os.getpid(),
            "loaded": [f"{model.folder}/{model.name}" for model in memory.loaded],
            "loads": memory.loads,
            "executed_nodes": self._machine.executed_nodes,
            "poisoned": self._machine.poisoned,
            "sockets": [client for client in self._sockets.open],
        }
        return web.json_response(facts)

    async def _exit(self, request: web.Request) -> web.Response:
        """Answer, then exit with status `code`."""
        code = int(request.query.get("code", "0"))
        asyncio.get_running_loop().call_later(0.05, os._exit, code)
        return web.Response()

    async def _fault(self, request: web.Request) -> web.Response:
        """Answer, then let the fault `kind` strike the whole process."""
        kind = request.query.get("kind", "crash")
        if kind not in faults.FAULTS:
            return web.json_response({"known": list(faults.FAULTS)}, status=400)
        asyncio.get_running_loop().call_later(0.05, faults.strike, kind, self._machine)
        return web.Response()

    async def _echo(self, request: web.Request) -> web.Response:
        """The request as it arrived; `status` and `header=Name:value` shape the answer."""
        body = await request.read()
        facts = {
            "method": request.method,
            "target": request.raw_path,
            "version": [request.version.major, request.version.minor],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
            "body": body.decode("latin-1"),
        }
        response = web.json_response(facts, status=int(request.query.get("status", "200")))
        for header in request.query.getall("header", []):
            name, _, value = header.partition(":")
            response.headers.add(name, value)
        return response


def _flood_message(kind: str, number: int, count: int, size: int) -> tuple[str | int, Any]:
    """Type and content of one message with about `size` bytes of ballast."""
    if kind == "preview":
        return PREVIEW, struct.pack(">II", 1, number) + (BLOCK * (size // len(BLOCK) + 1))[:size]
    if kind == "executed":
        return "executed", {
            "node": "1",
            "display_node": "1",
            "output": {"text": ["x" * size]},
            "prompt_id": str(number),
        }
    return "progress", {"value": number + 1, "max": count, "prompt_id": "flood", "node": "1", "ballast": "x" * size}
