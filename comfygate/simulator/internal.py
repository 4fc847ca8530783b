"""/internal: the log, and what lies in the folders.  These have no twin under /api."""

from __future__ import annotations

import os
import shutil
from typing import Any

from aiohttp import web

from comfygate.simulator.machine import Machine
from comfygate.simulator.models import FILES
from comfygate.simulator.sockets import Sockets


class Internal:
    """Routes for ComfyUI's own page."""

    def __init__(self, machine: Machine, sockets: Sockets) -> None:
        self._machine = machine
        self._sockets = sockets
        self._readers: set[str] = set()
        machine.console.listeners.append(self._tell_readers)

    def application(self) -> web.Application:
        """The routes, without their prefix."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/logs", self._log),
                web.get("/logs/raw", self._raw_log),
                web.patch("/logs/subscribe", self._subscribe),
                web.get("/folder_paths", self._folder_paths),
                web.get("/files/{kind}", self._files),
            ]
        )
        return app

    def _tell_readers(self, entries: list[dict[str, Any]]) -> None:
        for reader in tuple(self._readers):
            if reader in self._sockets.open:
                self._sockets.post("logs", {"entries": entries, "size": None}, reader)
            else:
                self._readers.discard(reader)

    async def _log(self, request: web.Request) -> web.Response:
        return web.json_response("".join(f"{entry['t']} - {entry['m']}" for entry in self._machine.console.entries))

    async def _raw_log(self, request: web.Request) -> web.Response:
        columns, rows = shutil.get_terminal_size()
        entries = list(self._machine.console.entries)
        return web.json_response({"entries": entries, "size": {"cols": columns, "rows": rows}})

    async def _subscribe(self, request: web.Request) -> web.Response:
        wish = await request.json()
        (self._readers.add if wish["enabled"] else self._readers.discard)(wish["clientId"])
        return web.Response()

    async def _folder_paths(self, request: web.Request) -> web.Response:
        return web.json_response({folder: [f"/models/{folder}"] for folder in FILES})

    async def _files(self, request: web.Request) -> web.Response:
        folder = self._machine.folders.by_type(request.match_info["kind"])
        if folder is None:
            return web.json_response({"error": "Invalid directory type"}, status=400)
        files = [entry for entry in os.scandir(folder) if entry.is_file()]
        return web.json_response([entry.name for entry in sorted(files, key=lambda entry: -entry.stat().st_mtime)])
