"""A backend on the HTTP library of ComfyUI.  Argument: a folder to serve.  Prints its port."""

import asyncio
import hashlib
import json
import sys

from aiohttp import web


async def echo(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    async for piece in request.content.iter_any():
        await answer.write(piece)
    return answer


async def digest(request: web.Request) -> web.Response:
    total = hashlib.sha256()
    async for piece in request.content.iter_any():
        total.update(piece)
    return web.json_response({"digest": total.hexdigest(), "headers": [list(item) for item in request.headers.items()]})


async def small(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())))


async def target(request: web.Request) -> web.Response:
    return web.Response(text=json.dumps(request.raw_path))


async def main() -> None:
    app = web.Application(client_max_size=1024 * 1024)
    app.router.add_route("*", "/echo", echo)
    app.router.add_post("/digest", digest)
    app.router.add_post("/small", small)
    app.router.add_static("/files", sys.argv[1])
    app.router.add_get("/{rest:.*}", target)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{site._server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


asyncio.run(main())
