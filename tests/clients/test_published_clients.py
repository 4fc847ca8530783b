"""Each published client gets the right images: one prompt after the other, from eight processes, and eight at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.driving import Client, Installation, check, over_the_socket, text_to_image
from tests.gateway import Gateway

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


@pytest.mark.parametrize("client", CLIENTS[1:-1], ids=lambda client: client.package)
def test_previews_are_no_results(
    client: Client, installation: Installation, previewing: Gateway, tmp_path: Path
) -> None:
    """The two clients that are not tried take them for results, from ComfyUI too."""
    programs = []
    for name, port in (("gpu", previewing.ports[0]), ("hub", previewing.hub)):
        prompts = [text_to_image() for _ in range(4)]
        command = [*client.command(installation), address(port), str(tmp_path / name)]
        programs.append((installation.start(command, prompts, tmp_path / name, together=True), prompts))
    for program, prompts in programs:
        for images, prompt in zip(program.images(), prompts, strict=True):
            check(images, prompt)


@pytest.mark.parametrize("client", [CLIENTS[0], CLIENTS[-1]], ids=lambda client: client.package)
def test_pictures_over_the_socket(client: Client, installation: Installation, port: int, tmp_path: Path) -> None:
    run_over_the_socket(client, installation, port, tmp_path / "result", together=False)


def test_pictures_over_the_hubs_socket_at_once(installation: Installation, gateway: Gateway, tmp_path: Path) -> None:
    """They bear no prompt id: whose they are, a client knows from what came before them, if not too much comes at once.

    On a GPU's port it comes as fast as from ComfyUI: there, this client mixes them up now and then.
    """
    run_over_the_socket(CLIENTS[-1], installation, gateway.hub, tmp_path / "result", together=True)


def run_over_the_socket(client: Client, installation: Installation, port: int, result: Path, together: bool) -> None:
    """Have four pictures sent instead of saved."""
    prompts = [over_the_socket(text_to_image()) for _ in range(4)]
    program = installation.start(
        [*client.command(installation), address(port), str(result)], prompts, result, together=together
    )
    for images, prompt in zip(program.images(), prompts, strict=True):
        check(images, prompt, embedded=False)


def address(port: int) -> str:
    """A port's address."""
    return f"http://127.0.0.1:{port}"
