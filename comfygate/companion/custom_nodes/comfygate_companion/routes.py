"""The companion's routes on ComfyUI's server; ComfyUI repeats them under ``/api`` by itself."""

from __future__ import annotations

import importlib
import os
import uuid
from typing import Any

from .validation import Validator

VERSION = os.environ.get("COMFYGATE_VERSION", "")
"""Of the daemon that started this ComfyUI; empty if none did."""


def install(parts: list[str]) -> None:
    """Add the routes.

    :param parts: the companion's parts that work here; shown, and filled later.
    :raises Exception: of any kind, if this ComfyUI is not like those known.
    """
    web = importlib.import_module("aiohttp.web")
    server = importlib.import_module("server")
    instance = server.PromptServer.instance
    validator = Validator(importlib.import_module("execution").validate_prompt)

    async def get_companion(request: Any) -> Any:
        return web.json_response({"version": VERSION, "routes": ["validate"], "parts": parts})

    async def post_validate(request: Any) -> Any:
        # The steps of ComfyUI's own POST /prompt, in its order.
        content = instance.trigger_on_prompt(await request.json())
        if "number" in content:
            float(content["number"])
        if "prompt" not in content:
            return web.json_response(refusal("no_prompt", "No prompt provided", "No prompt provided"), status=400)
        prompt = content["prompt"]
        try:
            prompt_id = canonical_id(server, content)
        except ValueError:
            return web.json_response(refusal("invalid_prompt_id", *INVALID_ID), status=400)
        replacements = getattr(instance, "node_replace_manager", None)
        if replacements is not None:
            replacements.apply_replacements(prompt)
        valid, error, outputs, node_errors = await validator.validate(
            prompt_id, prompt, content.get("partial_execution_targets")
        )
        if not valid:
            return web.json_response({"error": error, "node_errors": node_errors}, status=400)
        return web.json_response({"outputs": list(outputs), "node_errors": node_errors})

    instance.routes.get("/comfygate/companion")(get_companion)
    instance.routes.post("/comfygate/validate")(post_validate)


INVALID_ID = (
    "prompt_id must be a valid UUID",
    "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one",
)


def canonical_id(server: Any, content: dict[str, Any]) -> str:
    """The prompt's id as this ComfyUI takes it.

    :raises ValueError: where newer versions refuse it.
    """
    validate_job_id = getattr(server, "validate_job_id", None)
    if validate_job_id is None:
        return str(content.get("prompt_id", uuid.uuid4()))
    given = content.get("prompt_id")
    return str(uuid.uuid4()) if given is None else str(validate_job_id(given))


def refusal(type: str, message: str, details: str) -> dict[str, Any]:
    """An error in ComfyUI's shape."""
    error = {"type": type, "message": message, "details": details, "extra_info": {}}
    return {"error": error, "node_errors": {}}
