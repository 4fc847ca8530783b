"""A client's WebSocket and prompts, for tests of whole daemons."""

from __future__ import annotations

from typing import Any

from tests.contract.comfyui_client import Listener
from tests.gateway import request

LIMIT = 60.0
"""Seconds until the next message at most."""


def listen(port: int, client_id: str) -> Listener:
    """Open ComfyUI's WebSocket."""
    return Listener.open(f"127.0.0.1:{port}", f"/ws?clientId={client_id}")


def submit(port: int, client_id: str | None, prompt: dict[str, Any], gpu_id: int | None = None, **fields: Any) -> str:
    """Send a prompt, perhaps for one GPU only; its id."""
    body = {"prompt": prompt, **({} if client_id is None else {"client_id": client_id}), **fields}
    pin = {} if gpu_id is None else {"X-Target-GPU": str(gpu_id)}
    answer = request(port, "POST", "/prompt", body, pin)
    assert answer.status == 200, answer
    return str(answer.json()["prompt_id"])


def until(listener: Listener, *kinds: str) -> dict[str, Any]:
    """The next message of one of these types."""
    while True:
        message = listener.next(LIMIT)
        assert message is not None, f"closed: {listener.close_code}"
        if not isinstance(message, bytes) and message["type"] in kinds:
            return message
