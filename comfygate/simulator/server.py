"""The HTTP server: every route, with and without /api, over the parts that answer."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from comfygate.simulator import image_nodes, loader_nodes, middlewares, sampling_nodes, work_nodes
from comfygate.simulator.answers import Answers
from comfygate.simulator.companion import Companion
from comfygate.simulator.files import Files
from comfygate.simulator.info import Info, features
from comfygate.simulator.internal import Internal
from comfygate.simulator.job_routes import JobRoutes
from comfygate.simulator.jobs import Jobs
from comfygate.simulator.load import Load
from comfygate.simulator.machine import Machine
from comfygate.simulator.prompts import Prompts
from comfygate.simulator.queue_routes import QueueRoutes
from comfygate.simulator.sockets import Sockets
from comfygate.simulator.userdata import UserData
from comfygate.simulator.worker import Worker

HERE = Path(__file__).parent
NODE_MODULES = (image_nodes, loader_nodes, sampling_nodes, work_nodes)
"""Importing them is what makes their nodes known."""


class Server:
    """One simulated ComfyUI; made inside a running event loop."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.sockets = Sockets(machine.console, features(machine))
        self._jobs = Jobs(self.sockets.post_status)
        self._prompts = Prompts(machine, self._jobs)
        self.sockets.status = self._prompts.queue_info
        self.worker = Worker(machine, self._jobs, self.sockets)
        self._companion = Companion.of(machine)

    def application(self) -> web.Application:
        """Everything that can be asked over HTTP."""
        options = self._machine.options
        limit = round(options.max_upload_size * 2**20)
        chain = [Answers(self._machine).middleware, *middlewares.all_for(options)]
        app = web.Application(client_max_size=limit, middlewares=chain)
        routes = self._routes()
        app.add_subapp("/internal", Internal(self._machine, self.sockets).application())
        if options.sim_newer:
            routes += JobRoutes(self._jobs).routes()
        app.add_routes([web.route(route.method, "/api" + route.path, route.handler) for route in routes])
        app.add_routes(routes)
        app.add_routes([web.get("/{path:.*}", _static)])
        return app

    def _routes(self) -> list[web.RouteDef]:
        routes = [web.get("/", _page), web.get("/ws", self.sockets.serve), *self._prompts.routes()]
        routes += QueueRoutes(self._jobs).routes()
        routes += Files(self._machine).routes() + Info(self._machine).routes()
        routes += UserData(self._machine, self._companion).routes()
        routes += Load(self._machine, self.sockets).routes()
        if self._companion is not None:
            self._companion.protect_names(self._machine, self._jobs)
            self._companion.tell_progress(self.sockets, self._jobs)
            self._companion.tell_models(self._machine, self.sockets)
            routes.append(self._companion.read_ahead(self._machine.console))
            self._companion.parts.append("routes")
            routes += self._prompts.companion_routes(self._companion.parts)
        return routes


async def _page(request: web.Request) -> web.StreamResponse:
    headers = {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "0"}
    return web.FileResponse(HERE / "index.html", headers=headers)


async def _static(request: web.Request) -> web.StreamResponse:
    """There are no static files: answers as aiohttp does for one that is missing."""
    return web.FileResponse(HERE / "missing")
