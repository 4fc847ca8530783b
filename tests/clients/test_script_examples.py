"""ComfyUI's own script_examples, as they are in its repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.clients.driving import PROGRAMS, Installation, Running, check, over_the_socket, text_to_image
from tests.gateway import eventually, request

HOME = os.environ.get("COMFYUI_HOME")
EXAMPLES = Path(HOME or "", "script_examples")

pytestmark = pytest.mark.skipif(
    not (HOME and EXAMPLES.is_dir()), reason="COMFYUI_HOME names no ComfyUI with script_examples: they are its own"
)

WRITTEN = 5
"""The seed that is written in each of them."""


def start(installation: Installation, name: str, port: int, prompts: list[dict[str, Any]], result: Path) -> Running:
    command = [installation.python("websocket"), str(PROGRAMS / "example.py"), f"http://127.0.0.1:{port}", str(result)]
    return installation.start([*command, str(EXAMPLES / name)], prompts, result, together=False)


def written(size: int = 512) -> dict[str, Any]:
    """What of its own prompt a picture shows."""
    prompt = text_to_image(WRITTEN)
    prompt["5"]["inputs"].update(width=size, height=size)
    return prompt


@pytest.mark.parametrize("count", [1, 8])
def test_websockets_api_example(count: int, installation: Installation, port: int, tmp_path: Path) -> None:
    prompts = [text_to_image() for _ in range(count)]
    programs = [
        start(installation, "websockets_api_example.py", port, [prompt], tmp_path / str(number))
        for number, prompt in enumerate(prompts)
    ]
    for program, prompt in zip(programs, prompts, strict=True):
        first, second = program.images()
        check(first, written())
        check(second, prompt)


@pytest.mark.parametrize("count", [1, 8])
def test_websockets_api_example_ws_images(count: int, installation: Installation, port: int, tmp_path: Path) -> None:
    prompts = [over_the_socket(text_to_image()) for _ in range(count)]
    programs = [
        start(installation, "websockets_api_example_ws_images.py", port, [prompt], tmp_path / str(number))
        for number, prompt in enumerate(prompts)
    ]
    for program, prompt in zip(programs, prompts, strict=True):
        first, second = program.images()
        check(first, written(), embedded=False)
        check(second, prompt, embedded=False)


@pytest.mark.parametrize("count", [1, 8])
def test_basic_api_example(count: int, installation: Installation, port: int, tmp_path: Path) -> None:
    """It only queues: what becomes of it, the history tells."""
    before = set(history(port))
    prompts = [text_to_image() for _ in range(count)]
    programs = [
        start(installation, "basic_api_example.py", port, [prompt], tmp_path / str(number))
        for number, prompt in enumerate(prompts)
    ]
    for program in programs:
        assert program.images() == [[], []]
    eventually(lambda: len(set(history(port)) - before) == 2 * count)
    saved = [entry for prompt_id, entry in history(port).items() if prompt_id not in before]
    by_seed: dict[int, list[list[bytes]]] = {}
    for entry in saved:
        images = [view(port, image) for image in entry["outputs"]["9"]["images"]]
        by_seed.setdefault(entry["prompt"][2]["3"]["inputs"]["seed"], []).append(images)
    assert len(by_seed[WRITTEN]) == count
    for images in by_seed[WRITTEN]:
        check(images, written())
    for prompt in prompts:
        (images,) = by_seed[prompt["3"]["inputs"]["seed"]]
        check(images, prompt)


def history(port: int) -> dict[str, Any]:
    entries: dict[str, Any] = request(port, "GET", "/history").json()
    return entries


def view(port: int, image: dict[str, str]) -> bytes:
    query = f"filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
    answer = request(port, "GET", f"/view?{query}")
    assert answer.status == 200
    return answer.body
