"""The companion inside a real ComfyUI: COMFYUI_HOME names one, COMFYUI_PYTHON its Python."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThread

import comfygate
from comfygate.backend.commandline import Program
from comfygate.backend.managed import ManagedBackend
from comfygate.companion.custom_nodes.comfygate_companion import PARTS
from comfygate.model import BackendState
from comfygate.models import listed_files
from tests.contract.comfyui_client import Listener
from tests.gateway import request
from tests.process.backends import Workshop

HOME = os.environ.get("COMFYUI_HOME", "")
PYTHON = os.environ.get("COMFYUI_PYTHON") or str(Path(HOME, "venv", "bin", "python"))

pytestmark = pytest.mark.skipif(not HOME, reason="COMFYUI_HOME names no ComfyUI")

IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}


def save(*image: Any, **more: Any) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": list(image), "filename_prefix": "x", **more}}


def image(**changes: Any) -> dict[str, Any]:
    return {"class_type": "EmptyImage", "inputs": {**IMAGE["inputs"], **changes}}  # type: ignore[dict-item]


UUID = "5c2f4a5e-4a28-4b43-8d7f-6a0c7a9ee0a1"

BAD: dict[str, dict[str, Any]] = {
    "no prompt": {},
    "no prompt but an id": {"prompt_id": UUID, "client_id": "me"},
    "empty": {"prompt": {}},
    "no class": {"prompt": {"1": {"inputs": {}}}},
    "unknown class": {"prompt": {"1": {"class_type": "Nowhere", "inputs": {}}}},
    "no output": {"prompt": {"1": IMAGE}},
    "missing input": {"prompt": {"1": IMAGE, "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}},
    "link to nowhere": {"prompt": {"2": save("7", 0)}},
    "link of the wrong type": {
        "prompt": {
            "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "2": save("1", 0),
        }
    },
    "link to no output of it": {"prompt": {"1": IMAGE, "2": save("1", 9)}},
    "malformed link": {"prompt": {"1": IMAGE, "2": save("1")}},
    "value too large": {"prompt": {"1": image(width=10**9), "2": save("1", 0)}},
    "value too small": {"prompt": {"1": image(batch_size=0), "2": save("1", 0)}},
    "value of the wrong type": {"prompt": {"1": image(width="wide"), "2": save("1", 0)}},
    "value not in the list": {
        "prompt": {
            "1": IMAGE,
            "3": {
                "class_type": "ImageScale",
                "inputs": {"image": ["1", 0], "upscale_method": "magic", "width": 8, "height": 8, "crop": "disabled"},
            },
            "2": save("3", 0),
        }
    },
    "no such target": {"prompt": {"1": IMAGE, "2": save("1", 0)}, "partial_execution_targets": ["1"]},
    "two bad outputs": {"prompt": {"1": image(width=-1), "2": save("1", 0), "4": save("1", 0)}},
}


TEXT_ENCODER = "tiny-clip.safetensors"


def write_text_encoder(path: Path) -> None:
    """A file that ComfyUI takes for CLIP-L; what is missing in it, it leaves as it is."""
    header = {"text_model.encoder.layers.0.mlp.fc1.weight": {"dtype": "F16", "shape": [3072, 768]}}
    size = 3072 * 768 * 2
    text = json.dumps({name: {**facts, "data_offsets": [0, size]} for name, facts in header.items()}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedBackend]:
    folder = tmp_path_factory.mktemp("companion")
    workshop = Workshop(reactor, folder)
    write_text_encoder(folder / TEXT_ENCODER)
    paths = folder / "paths.yaml"
    paths.write_text(f"mine:\n    base_path: {folder}\n    text_encoders: .\n")
    made = workshop.backend(Program(HOME, PYTHON), arguments=("--extra-model-paths-config", str(paths)))
    made.start()
    pytest_twisted.blockon(ensureDeferred(workshop.becomes(made, BackendState.READY, 120)))
    yield made
    pytest_twisted.blockon(ensureDeferred(workshop.close()))


def client(backend: ManagedBackend) -> Any:
    assert backend.client is not None, backend.last_error
    return backend.client


@pytest_twisted.ensureDeferred
async def test_it_is_there(backend: ManagedBackend) -> None:
    assert backend.has_companion
    assert await client(backend).companion() == {
        "version": comfygate.__version__,
        "routes": ["validate"],
        "parts": list(PARTS),
    }


def canonical(body: bytes) -> Any:
    """ComfyUI visits outputs in the order of a set, which differs between two questions."""
    found = json.loads(body)
    if isinstance(found.get("error"), dict):
        found["error"]["details"] = sorted(found["error"]["details"].split("\n"))
    for node in found["node_errors"].values():
        node["dependent_outputs"].sort()
    return found


@pytest.mark.parametrize("name", BAD)
@pytest_twisted.ensureDeferred
async def test_refusals_are_those_of_the_prompt_route(backend: ManagedBackend, name: str) -> None:
    body = json.dumps(BAD[name]).encode()
    validated = await client(backend).validate(body)
    submitted = await client(backend).submit(body)
    assert validated.status == submitted.status == 400
    assert canonical(validated.body) == canonical(submitted.body)
    assert validated.content_type == submitted.content_type


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'{"prompt": null}', b'{"prompt": 5}'])
@pytest_twisted.ensureDeferred
async def test_what_is_no_prompt_at_all_fails_alike(backend: ManagedBackend, body: bytes) -> None:
    validated = await client(backend).validate(body)
    submitted = await client(backend).submit(body)
    assert validated.status == submitted.status
    assert validated.status >= 400


@pytest_twisted.ensureDeferred
async def test_nothing_is_queued(backend: ManagedBackend) -> None:
    bodies = [
        {
            "prompt": {"1": IMAGE, "2": save("1", 0)},
            "client_id": "me",
            "prompt_id": "5c2f4a5e-4a28-4b43-8d7f-6a0c7a9ee0a1",
        },
        {"prompt": {"1": IMAGE, "3": image(width=-1), "2": save("1", 0), "4": save("3", 0)}, "number": -5},
        {"prompt": {"1": IMAGE, "2": save("1", 0), "4": save("1", 0)}, "partial_execution_targets": ["4"]},
    ]
    answers = [await client(backend).validate(json.dumps(body).encode()) for body in bodies]
    assert [answer.status for answer in answers] == [200, 200, 200]
    whole, half, part = (json.loads(answer.body) for answer in answers)
    assert whole == {"outputs": ["2"], "node_errors": {}}
    assert half["outputs"] == ["2"]
    assert set(half["node_errors"]) == {"3"}
    assert part == {"outputs": ["4"], "node_errors": {}}
    queue = await client(backend).queue()
    assert queue.running == queue.pending == ()
    assert backend.address is not None
    history = await deferToThread(request, backend.address[1], "GET", "/history")
    assert history.json() == {}


def watch_a_prompt(port: int) -> tuple[list[Any], list[Any]]:
    """What a stock client and a monitor are told of a prompt that no client has sent."""
    host = f"127.0.0.1:{port}"
    prompt = {
        "1": image(width=32, color=7),
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "2": save("3", 0),
    }
    with (
        Listener.open(host, "/ws?clientId=stock") as stock,
        Listener.open(host, "/ws?clientId=comfygate-test") as monitor,
    ):
        body = {"prompt": prompt, "prompt_id": UUID.replace("5", "6"), "number": 0, "extra_data": {}}
        assert request(port, "POST", "/prompt", body).status == 200
        told: tuple[list[Any], list[Any]] = [], []
        for listener, messages in zip((stock, monitor), told, strict=True):
            while True:
                message: Any = listener.next()
                messages.append(message)
                waits = message["data"]["status"]["exec_info"]["queue_remaining"] if message["type"] == "status" else 1
                if not waits and any(one["type"] == "progress_state" for one in messages):
                    break
        return told


@pytest_twisted.ensureDeferred
async def test_progress_is_told_to_us_and_to_nobody_else(backend: ManagedBackend) -> None:
    assert backend.address is not None
    stock, monitor = await deferToThread(watch_a_prompt, backend.address[1])
    assert not [message for message in stock if message["type"].startswith("comfygate")]
    told = [message["data"] for message in monitor if message["type"] == "comfygate.progress"]
    assert {one["prompt_id"] for one in told} == {UUID.replace("5", "6")}
    assert [one["node_type"] for one in told] == [None, "EmptyImage", "ImageInvert", "SaveImage", None]
    assert {one["nodes_total"] for one in told} == {3}
    assert (told[-1]["ended"], told[-1]["nodes_done"]) == (True, 3)
    assert [message for message in monitor if not message["type"].startswith("comfygate.")][1:] == stock[1:]
    assert backend.progress is None


def run(port: int, prompt: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a prompt to its end; return what a monitor is told of models."""
    with Listener.open(f"127.0.0.1:{port}", "/ws?clientId=comfygate-test-2") as monitor:
        assert request(port, "POST", "/prompt", {"prompt": prompt}).status == 200
        told: list[dict[str, Any]] = []
        while not told or not told[-1]["ended"]:
            message: Any = monitor.next()
            if message["type"] == "comfygate.models":
                told.append(message["data"])
        return told


@pytest_twisted.ensureDeferred
async def test_models_are_told_of_for_as_long_as_they_are_in_memory(backend: ManagedBackend) -> None:
    assert backend.address is not None
    with_model = {
        "1": {"class_type": "CLIPLoader", "inputs": {"clip_name": TEXT_ENCODER, "type": "stable_diffusion"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 0]}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    begin, end = await deferToThread(run, backend.address[1], with_model)
    assert (begin["models"], end["models"]) == ([], [TEXT_ENCODER])
    assert end["free_memory"] > 0
    with_model["2"]["inputs"]["text"] = "a dog"  # type: ignore[index]
    begin, end = await deferToThread(run, backend.address[1], with_model)
    assert (begin["models"], end["models"]) == ([TEXT_ENCODER], [TEXT_ENCODER])
    begin, end = await deferToThread(run, backend.address[1], {"1": image(color=9), "2": save("1", 0)})
    assert (begin["models"], end["models"]) == ([], [])
    assert backend.holding is not None


@pytest_twisted.ensureDeferred
async def test_model_files_are_listed_and_read_ahead(backend: ManagedBackend) -> None:
    told = await client(backend).ask("GET", "/object_info", seconds=60.0, limit=64 * 2**20)
    assert TEXT_ENCODER in listed_files(json.loads(told.body))
    await client(backend).read_ahead([TEXT_ENCODER, "../../etc/passwd"])
