"""Each published client gets the right images: one prompt after the other, from eight processes, and eight at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.driving import Client, Installation, check, over_the_socket, text_to_image

CLIENTS = [
    Client("comfy-api-simplified", "simplified.py"),
    Client("comfy-catapult", "catapult.py"),
    Client("comfy-script", "script.py"),
    Client("comfy-ui-client", "comfy_ui_client.mjs"),
    Client("@saintno/comfyui-sdk", "saintno.mjs"),
    Client("@stable-canvas/comfyui-client", "stable_canvas.mjs"),
]


@pytest.fixture(params=CLIENTS, ids=[client.package for client in CLIENTS])
def command(request: pytest.FixtureRequest, installation: Installation) -> list[str]:
    """What runs a client."""
    return request.param.command(installation)


def test_one_after_the_other(installation: Installation, command: list[str], port: int, tmp_path: Path) -> None:
    prompts = [text_to_image() for _ in range(3)]
    result = tmp_path / "result"
    program = installation.start([*command, address(port), str(result)], prompts, result, together=False)
    for images, prompt in zip(program.images(), prompts, strict=True):
        check(images, prompt)


def test_eight_processes(installation: Installation, command: list[str], port: int, tmp_path: Path) -> None:
    prompts = [text_to_image() for _ in range(8)]
    programs = []
    for number, prompt in enumerate(prompts):
        result = tmp_path / f"result-{number}"
        programs.append(installation.start([*command, address(port), str(result)], [prompt], result, together=False))
    for program, prompt in zip(programs, prompts, strict=True):
        (images,) = program.images()
        check(images, prompt)


def test_eight_at_once_from_one(installation: Installation, command: list[str], port: int, tmp_path: Path) -> None:
    prompts = [text_to_image() for _ in range(8)]
    result = tmp_path / "result"
    program = installation.start([*command, address(port), str(result)], prompts, result, together=True)
    for images, prompt in zip(program.images(), prompts, strict=True):
        check(images, prompt)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("client", [CLIENTS[0], CLIENTS[-1]], ids=lambda client: client.package)
def test_pictures_that_come_over_the_socket(
    client: Client, together: bool, installation: Installation, port: int, tmp_path: Path
) -> None:
    """They bear no prompt id: whose they are, a client knows only from what came before them."""
    prompts = [over_the_socket(text_to_image(steps=3)) for _ in range(4)]
    result = tmp_path / "result"
    command = [*client.command(installation), address(port), str(result)]
    program = installation.start(command, prompts, result, together)
    for images, prompt in zip(program.images(), prompts, strict=True):
        check(images, prompt, embedded=False)


def address(port: int) -> str:
    """A port's address."""
    return f"http://127.0.0.1:{port}"
