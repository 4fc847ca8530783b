"""What the machine is and what it can do: /system_stats, /object_info, /models and their like."""

from __future__ import annotations

import os
import sys
from typing import Any

from aiohttp import web

from comfygate.simulator.machine import Machine
from comfygate.simulator.models import FILES, VRAM, free_bytes
from comfygate.simulator.nodes import NODES

COMFYUI_VERSION = "0.3.64"
"""The version whose behaviour is imitated."""


def features(machine: Machine) -> dict[str, Any]:
    """What GET /features and the negotiation on a WebSocket tell."""
    return {"supports_preview_metadata": True, "max_upload_size": machine.options.max_upload_size * 2**20}


class Info:
    """Routes that only tell."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/system_stats", self._system_stats),
            web.get("/features", self._features),
            web.get("/object_info", self._all_nodes),
            web.get("/object_info/{name}", self._one_node),
            web.get("/embeddings", self._embeddings),
            web.get("/models", self._folders),
            web.get("/models/{folder}", self._files),
            web.get("/experiment/models", self._folder_paths),
            web.get("/experiment/models/{folder}", self._file_facts),
            web.get("/experiment/models/preview/{folder}/{path_index}/{filename:.*}", self._no_preview),
            web.get("/extensions", self._nothing_listed),
            web.get("/workflow_templates", self._nothing_named),
            web.get("/i18n", self._nothing_named),
        ]

    async def _system_stats(self, request: web.Request) -> web.Response:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        system = {
            "os": os.name,
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": COMFYUI_VERSION,
            "required_frontend_version": "0.0.0",
            "installed_templates_version": "0.0.0",
            "required_templates_version": "0.0.0",
            "python_version": sys.version,
            "pytorch_version": "0.0.0+simulator",
            "embedded_python": False,
            "argv": ["main.py", *self._machine.arguments],
        }
        return web.json_response({"system": system, "devices": [self._device(total, free)]})

    def _device(self, ram_total: int, ram_free: int) -> dict[str, Any]:
        if self._machine.options.cpu:
            names: dict[str, Any] = {"name": "cpu", "type": "cpu", "index": None}
            total, free = ram_total, ram_free
        else:
            # Whatever GPU it is, inside it is number 0.
            number = self._machine.options.cuda_device or "0"
            names = {"name": f"cuda:0 Simulated GPU {number} : native", "type": "cuda", "index": 0}
            total, free = VRAM, free_bytes(self._machine.memory)
        numbers = {"vram_total": total, "vram_free": free, "torch_vram_total": total, "torch_vram_free": free}
        return names | numbers

    async def _features(self, request: web.Request) -> web.Response:
        return web.json_response(features(self._machine))

    async def _all_nodes(self, request: web.Request) -> web.Response:
        return web.json_response({name: node.info(self._machine) for name, node in NODES.items()})

    async def _one_node(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response({name: NODES[name].info(self._machine)} if name in NODES else {})

    async def _embeddings(self, request: web.Request) -> web.Response:
        return web.json_response([os.path.splitext(name)[0] for name in FILES["embeddings"]])

    async def _folders(self, request: web.Request) -> web.Response:
        return web.json_response(list(FILES))

    async def _files(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        return web.json_response(FILES[folder]) if folder in FILES else web.Response(status=404)

    async def _folder_paths(self, request: web.Request) -> web.Response:
        named = [folder for folder in FILES if folder not in {"configs", "custom_nodes"}]
        return web.json_response([{"name": folder, "folders": [f"/models/{folder}"]} for folder in named])

    async def _file_facts(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        if folder not in FILES:
            return web.Response(status=404)
        facts = {"pathIndex": 0, "modified": 0.0, "created": 0.0, "size": 0}
        return web.json_response([{"name": name, **facts} for name in FILES[folder]])

    async def _no_preview(self, request: web.Request) -> web.Response:
        return web.Response(status=404)

    async def _nothing_listed(self, request: web.Request) -> web.Response:
        return web.json_response([])

    async def _nothing_named(self, request: web.Request) -> web.Response:
        return web.json_response({})
