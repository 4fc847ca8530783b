"""/queue, /interrupt, /free and /history."""

from __future__ import annotations

from aiohttp import web

from comfygate.simulator.bodies import pick
from comfygate.simulator.jobs import Jobs


class QueueRoutes:
    """What clients see of the jobs, and do to them."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/queue", self._show_queue),
            web.post("/queue", self._change_queue),
            web.post("/interrupt", self._interrupt),
            web.post("/free", self._free),
            web.get("/history", self._show_history),
            web.get("/history/{prompt_id}", self._show_past_prompt),
            web.post("/history", self._change_history),
        ]

    async def _show_queue(self, request: web.Request) -> web.Response:
        running, pending = self._jobs.listing()
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def _change_queue(self, request: web.Request) -> web.Response:
        wish = await request.json()
        if pick(wish, "clear"):
            self._jobs.clear()
        for prompt_id in pick(wish, "delete", []):
            self._jobs.delete(prompt_id)
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        try:
            wish = await request.json()
        except ValueError:
            wish = {}
        self._jobs.interrupt(wish.get("prompt_id"))
        return web.Response()

    async def _free(self, request: web.Request) -> web.Response:
        wish = await request.json()
        for flag in ("unload_models", "free_memory"):
            if wish.get(flag):
                self._jobs.raise_flag(flag, wish[flag])
        return web.Response()

    async def _show_history(self, request: web.Request) -> web.Response:
        max_items = request.query.get("max_items")
        offset = int(request.query.get("offset", -1))
        return web.json_response(self._jobs.past(None if max_items is None else int(max_items), offset))

    async def _show_past_prompt(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        history = self._jobs.history
        return web.json_response({prompt_id: history[prompt_id]} if prompt_id in history else {})

    async def _change_history(self, request: web.Request) -> web.Response:
        wish = await request.json()
        if pick(wish, "clear"):
            self._jobs.history = {}
        for prompt_id in pick(wish, "delete", []):
            self._jobs.history.pop(prompt_id, None)
        return web.Response()
