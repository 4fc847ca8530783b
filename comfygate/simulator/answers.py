"""Answers that break: the process dies, or sends something that is no answer, as raw bytes on the socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from comfygate.simulator.machine import Machine
from comfygate.simulator.plans import Countdown

LOOKS = ("/queue", "/history")
TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"

Break = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Answers:
    """Breaks the answers that the options name: those to POST /prompt, and those to whoever looks jobs up."""

    def __init__(self, machine: Machine) -> None:
        options, memory = machine.options, Path(machine.folders.temp).parent
        self._prompts = Countdown(options.sim_prompt_fault, memory / "simulator-prompts")
        self._looks = Countdown(options.sim_look_fault, memory / "simulator-looks")

    def _countdown(self, request: web.Request) -> Countdown | None:
        path = request.path.removeprefix("/api")
        if request.method == "POST":
            return self._prompts if path == "/prompt" else None
        is_look = path in LOOKS or path.startswith("/history/")
        return self._looks if is_look and request.method == "GET" else None

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let the fault strike whose turn it is."""
        countdown = self._countdown(request)
        plan = None if countdown is None else countdown.next()
        if plan is None:
            return await handler(request)
        await request.read()
        if not plan.before:
            await handler(request)
        return await BREAKS[plan.kind](request)


async def _die(request: web.Request) -> web.StreamResponse:
    os._exit(1)


async def _fail(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text=TROUBLE)


async def _stay_silent(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("nobody wakes it")


def _only(content: bytes) -> Break:
    """Send these bytes and close the connection."""

    async def send(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is not None:
            transport.write(content)
            transport.close()
        return web.Response()  # goes nowhere

    return send


BREAKS: dict[str, Break] = {
    "die": _die,
    "queue_500": _fail,
    "garbage": _only(b"\x16\x03\x03 this is not HTTP \xff\xfe\r\n\r\n"),
    "half_head": _only(HEAD[:40]),
    "short_body": _only(HEAD + b'Content-Length: 1000\r\n\r\n{"prompt_id": "'),
    "silent": _stay_silent,
}
"""What each of `KINDS` does in place of an answer."""
