"""How a published client is run, and how an image is recognised."""

from __future__ import annotations

import base64
import io
import itertools
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import frozen
from PIL import Image

from comfygate.simulator.sampling_nodes import scene

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 90.0
"""Seconds that a program may take."""

Prompt = dict[str, Any]

_seeds = itertools.count(int(time.time()) % 100_000 * 1000)


@frozen
class Installation:
    """Where the clients are.

    :ivar node: Node.js, or None where there is none.
    """

    folder: Path
    node: str | None

    def python(self, package: str) -> str:
        """The Python that has a package, which is named as its files are."""
        python = self.folder / "venv" / "bin" / "python"
        if not any((self.folder / "venv").glob(f"lib/python*/site-packages/{package}/__init__.py")):
            pytest.skip(f"{package} is not installed here: make clients installs what PyPI has")
        return str(python)

    def javascript(self, package: str) -> str:
        """Node.js, with a package."""
        if self.node is None:
            pytest.skip("there is no node here: the JavaScript clients are not tried")
        if not (self.folder / "node_modules" / package / "package.json").exists():
            pytest.skip(f"{package} is not installed here: make clients installs what npm has")
        return self.node

    def start(self, command: Sequence[str], prompts: Sequence[Prompt], result: Path, together: bool) -> Running:
        """Run a program with a client, on these prompts.

        :param together: whether it sends them all at once.
        """
        environment = {**os.environ, "COMFYGATE_CLIENTS": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        log = result.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=result.parent, env=environment
            )
        assert process.stdin
        process.stdin.write(orjson.dumps({"prompts": prompts, "together": together}))
        process.stdin.close()
        return Running(process, result, log)


@frozen
class Running:
    """A program that drives a client."""

    process: subprocess.Popen[bytes]
    result: Path
    log: Path

    def images(self) -> list[list[bytes]]:
        """Each prompt's images, once it has ended.

        :raises AssertionError: it has not ended well.
        """
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {PATIENCE} s:\n{self.said()}") from None
        finally:
            self.process.kill()
            self.process.wait()
        assert status == 0, f"status {status}:\n{self.said()}"
        return [[base64.b64decode(one) for one in each] for each in orjson.loads(self.result.read_bytes())]

    def said(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-4000:]


@frozen
class Client:
    """A published client, and our program that drives it.

    :ivar package: its name in the registry.
    """

    package: str
    program: str

    def command(self, installation: Installation) -> list[str]:
        """What runs it; the port's address and a file for the result are to follow."""
        javascript = self.program.endswith(".mjs")
        find = installation.javascript if javascript else installation.python
        return [find(self.package if javascript else self.package.replace("-", "_")), str(PROGRAMS / self.program)]


def text_to_image(seed: int | None = None) -> Prompt:
    """ComfyUI's default workflow, small, with a seed of its own."""
    picked = next(_seeds) if seed is None else seed
    nodes: dict[str, tuple[str, str, dict[str, Any]]] = {
        "3": (
            "KSampler",
            "KSampler",
            {
                "seed": picked,
                "steps": 2,
                "cfg": 8.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        ),
        "4": ("CheckpointLoaderSimple", "Load Checkpoint", {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}),
        "5": ("EmptyLatentImage", "Empty Latent Image", {"width": 128, "height": 96, "batch_size": 1}),
        "6": ("CLIPTextEncode", "Positive", {"text": f"picture number {picked}", "clip": ["4", 1]}),
        "7": ("CLIPTextEncode", "Negative", {"text": "bad hands", "clip": ["4", 1]}),
        "8": ("VAEDecode", "VAE Decode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", "Save Image", {"filename_prefix": "clients", "images": ["8", 0]}),
    }
    return {
        key: {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
        for key, (kind, title, inputs) in nodes.items()
    }


def over_the_socket(prompt: Prompt) -> Prompt:
    """The same, sent to the client instead of saved; the node is called as ComfyUI's example calls it."""
    sent = {"images": ["8", 0]}
    node = {"class_type": "SaveImageWebsocket", "inputs": sent, "_meta": {"title": "Save Image"}}
    return {**{key: value for key, value in prompt.items() if key != "9"}, "save_image_websocket_node": node}


def seed_of(prompt: Prompt) -> int:
    """The sampler's seed."""
    (seed,) = {node["inputs"]["seed"] for node in prompt.values() if node["class_type"] == "KSampler"}
    return int(seed)


def check(images: Sequence[bytes], prompt: Prompt, *, embedded: bool = True) -> None:
    """See that a prompt has given its one picture: the right size, the right pixels, and the prompt within it.

    :param embedded: whether the file was saved, and so holds the prompt.
    """
    assert len(images) == 1
    (latent,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "EmptyLatentImage")
    with Image.open(io.BytesIO(images[0])) as picture:
        expected = scene(latent["width"], latent["height"], seed_of(prompt))
        assert picture.size == expected.size
        assert picture.tobytes() == expected.tobytes()
        if embedded:
            assert seed_of(orjson.loads(picture.info["prompt"])) == seed_of(prompt)
