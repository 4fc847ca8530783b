"""GET and POST /prompt, and the companion's validation of the same bodies."""

from __future__ import annotations

import time
import uuid
from typing import Any

from aiohttp import web

from comfygate import __version__
from comfygate.simulator.bodies import pick
from comfygate.simulator.jobs import Jobs
from comfygate.simulator.machine import Machine
from comfygate.simulator.validation import refusal, validate


class Prompts:
    """The door through which prompts come in."""

    def __init__(self, machine: Machine, jobs: Jobs) -> None:
        self._machine = machine
        self._jobs = jobs
        self._number = 0

    def routes(self) -> list[web.RouteDef]:
        """What every ComfyUI answers."""
        return [web.get("/prompt", self._remaining), web.post("/prompt", self._accept)]

    def companion_routes(self, parts: list[str]) -> list[web.RouteDef]:
        """What a ComfyUI with ComfyGate's custom node answers."""

        async def get_companion(request: web.Request) -> web.Response:
            return web.json_response({"version": __version__, "routes": ["validate"], "parts": parts})

        return [web.get("/comfygate/companion", get_companion), web.post("/comfygate/validate", self._validate)]

    def queue_info(self) -> dict[str, Any]:
        """How many jobs wait or run."""
        return {"exec_info": {"queue_remaining": self._jobs.remaining}}

    async def _remaining(self, request: web.Request) -> web.Response:
        return web.json_response(self.queue_info())

    async def _accept(self, request: web.Request) -> web.Response:
        self._machine.console.say("got prompt")
        body = await request.json()
        number = self._take_number(body)
        if "prompt" not in body:
            return _no_prompt()
        prompt_id = str(body.get("prompt_id", uuid.uuid4()))
        verdict = validate(self._machine, body["prompt"], body.get("partial_execution_targets"))
        extra_data = pick(body, "extra_data", {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        if verdict.error is not None:
            self._machine.console.say(f"invalid prompt: {verdict.error}")
            return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        if self._machine.options.sim_newer:
            extra_data["create_time"] = int(time.time() * 1000)
        self._jobs.put((number, prompt_id, body["prompt"], extra_data, verdict.outputs))
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})

    def _take_number(self, body: Any) -> float:
        if "number" in body:
            return float(body["number"])
        number, self._number = self._number, self._number + 1
        return -number if pick(body, "front") else number

    async def _validate(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "prompt" not in body:
            return _no_prompt()
        verdict = validate(self._machine, body["prompt"], body.get("partial_execution_targets"))
        if verdict.error is not None:
            return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        return web.json_response({"outputs": verdict.outputs, "node_errors": verdict.node_errors})


def _no_prompt() -> web.Response:
    error = refusal("no_prompt", "No prompt provided", "No prompt provided")
    return web.json_response({"error": error, "node_errors": {}}, status=400)
