"""A WebSocket server that treats its clients as ComfyUI does, and does as it is told.

Prints its port.  ``POST /do`` takes ``{"sid", "steps": [[what, …], …]}``; ``GET
/seen`` lists the handshakes; ``GET /state`` tells who is connected.
"""

import asyncio
import contextlib
import json
import sys
import uuid

import aiohttp
from aiohttp import WSMsgType, web


class Backend:
    def __init__(self) -> None:
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.received: dict[str, list[object]] = {}
        self.closed: dict[str, list[list[object]]] = {}
        self.pings: dict[str, int] = {}
        self.seen: list[dict[str, object]] = []
        self.remaining = 0

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(
            {
                "target": request.raw_path,
                "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in request.raw_headers],
            }
        )
        if refuse := request.query.get("refuse"):
            return web.Response(status=int(refuse), text="no")
        if request.query.get("stall"):
            await asyncio.sleep(3600)
        socket = web.WebSocketResponse(autoping=False, max_msg_size=8 << 20, protocols=("one", "two"))
        await socket.prepare(request)
        sid = request.rel_url.query.get("clientId", "")
        if sid:
            self.sockets.pop(sid, None)
        else:
            sid = uuid.uuid4().hex
        self.sockets[sid] = socket
        try:
            status = {"status": {"exec_info": {"queue_remaining": self.remaining}}, "sid": sid}
            await socket.send_str(json.dumps({"type": "status", "data": status}))
            await self.listen(sid, socket)
        finally:
            self.sockets.pop(sid, None)
            self.closed.setdefault(sid, []).append([socket.close_code])
        return socket

    async def listen(self, sid: str, socket: web.WebSocketResponse) -> None:
        heard = self.received.setdefault(sid, [])
        async for message in socket:
            if message.type is WSMsgType.PING:
                self.pings[sid] = self.pings.get(sid, 0) + 1
                await socket.pong(message.data)
            elif message.type is WSMsgType.TEXT:
                heard.append(message.data)
                if message.data == "echo":
                    await socket.send_str("echoed")
            elif message.type is WSMsgType.BINARY:
                heard.append(len(message.data))
                if message.data[:4] == b"echo":
                    await socket.send_bytes(message.data)

    async def do(self, request: web.Request) -> web.Response:
        order = await request.json()
        socket = self.sockets[order["sid"]]
        for what, *arguments in order["steps"]:
            await getattr(self, f"do_{what}")(socket, *arguments)
        return web.json_response({})

    async def do_text(self, socket: web.WebSocketResponse, text: str, times: int = 1) -> None:
        for _ in range(times):
            await socket.send_str(text)

    async def do_binary(self, socket: web.WebSocketResponse, prefix: str, size: int, times: int = 1) -> None:
        payload = bytes.fromhex(prefix).ljust(size, b"\x5a")
        for _ in range(times):
            await socket.send_bytes(payload)

    async def do_run(self, socket: web.WebSocketResponse, steps: int, preview: int) -> None:
        """A prompt's messages: `steps` previews and progress reports between events that count."""
        picture = bytes.fromhex("0000000100000001").ljust(preview, b"\x5a")
        for step in range(steps):
            data = {"value": step, "max": steps, "prompt_id": "p", "node": "3"}
            await socket.send_str(json.dumps({"type": "progress", "data": data}))
            await socket.send_bytes(picture)
            if step % 10 == 0:
                for kind in ("executed", "status", "execution_cached", "executing"):
                    await socket.send_str(json.dumps({"type": kind, "data": {"step": step}}))

    async def do_close(self, socket: web.WebSocketResponse, code: int, reason: str) -> None:
        await socket.close(code=code, message=reason.encode())

    async def do_abort(self, socket: web.WebSocketResponse) -> None:
        assert socket._req is not None and socket._req.transport is not None
        await asyncio.sleep(0)
        socket._req.transport.abort()

    async def do_remaining(self, socket: web.WebSocketResponse, remaining: int) -> None:
        self.remaining = remaining

    async def state(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "sids": list(self.sockets),
                "received": self.received,
                "closed": self.closed,
                "pings": self.pings,
            }
        )

    async def handshakes(self, request: web.Request) -> web.Response:
        return web.json_response(self.seen)


async def main() -> None:
    backend = Backend()
    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/do", backend.do)
    app.router.add_get("/seen", backend.handshakes)
    app.router.add_get("/state", backend.state)
    app.router.add_get("/{path:.*}", backend.websocket)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
    del aiohttp
