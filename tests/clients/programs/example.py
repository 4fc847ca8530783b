"""One of ComfyUI's script_examples as it is: ``example.py URL RESULT SCRIPT < task``.

It runs first as a person would run it, with the prompt that is written in it,
and then its functions run the test's prompts.  What it believes to be port 8188
is the port under test.
"""

from __future__ import annotations

import runpy
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

from exchange import Prompt, done, task

url, prompts, _ = task()
port = urlsplit(url).port
connect = socket.socket.connect


def redirected(self: socket.socket, address: Any) -> None:
    connect(self, ("127.0.0.1", port) if address == ("127.0.0.1", 8188) else address)


socket.socket.connect = redirected  # type: ignore[method-assign]
example = runpy.run_path(sys.argv[3])


def run(prompt: Prompt) -> list[bytes]:
    if "get_images" not in example:
        example["queue_prompt"](prompt)
        return []
    websocket = example["websocket"].WebSocket()
    websocket.connect(f"ws://{example['server_address']}/ws?clientId={example['client_id']}")
    try:
        return flat(example["get_images"](websocket, prompt))
    finally:
        websocket.close()


def flat(outputs: dict[str, list[bytes]]) -> list[bytes]:
    return [image for images in outputs.values() for image in images]


done([flat(example.get("images", {})), *map(run, prompts)])
