"""Many GPUs save into one folder at once: the daemon with simulators, and with the ComfyUI that COMFYUI_HOME names."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from PIL import Image

from tests.gateway import Gateway, eventually, request, running

HOME = os.environ.get("COMFYUI_HOME", "")
PYTHON = os.environ.get("COMFYUI_PYTHON") or str(Path(HOME, "venv", "bin", "python"))

NO_COMPANION = "arguments = --disable-all-custom-nodes --whitelist-custom-nodes none\n"
AT_ONCE = 16
PATIENCE = 300.0


@frozen
class Target:
    """What the GPUs run, and on how many of them."""

    config: str
    gpus: int


SIMULATOR = Target("comfyui = simulator\ndevices = cpu*4\n", 4)
LISTING_NODE = """
import os, re, folder_paths

class SaveByListing:
    \"\"\"Numbers its files by what it finds in the folder, and overwrites what is there, as some video nodes do.\"\"\"

    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "save", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {})}}

    def save(self, images, filename_prefix):
        folder, filename, _, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        found = [re.fullmatch(re.escape(filename) + r"_(\\d+)\\D*\\..+", name) for name in os.listdir(folder)]
        number = max((int(match[1]) for match in found if match), default=0) + 1
        name = f"{filename}_{number:05}.txt"
        with open(os.path.join(folder, name), "w") as file:
            file.write(str(images.shape))
        return {"ui": {"images": [{"filename": name, "subfolder": subfolder, "type": "output"}]}}

NODE_CLASS_MAPPINGS = {"SaveByListing": SaveByListing}
"""

COMFYUI = Target(f"comfyui = {HOME}\npython = {PYTHON}\ndevices = cpu*4\n", 4)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SIMULATOR, id="simulator"),
        pytest.param(COMFYUI, id="comfyui", marks=pytest.mark.skipif(not HOME, reason="COMFYUI_HOME names no ComfyUI")),
    ],
)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    return found


@pytest.fixture(scope="module")
def protected(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gpus(tmp_path_factory.mktemp("names"), target) as gateway:
        yield gateway


@contextmanager
def gpus(folder: Path, target: Target, more: str = "") -> Iterator[Gateway]:
    config = f"{target.config}rate = 0\noutput_dir = {folder / 'output'}\ninput_dir = {folder / 'input'}\n{more}"
    for name in ("input", "output"):
        (folder / name).mkdir()
    with running(folder, config, gpus=target.gpus) as gateway:
        yield gateway


@frozen
class Saved:
    """A file that the history names, and the prompt that it says made it."""

    path: Path
    prompt: dict[str, Any]

    def is_right(self) -> bool:
        """Whether the file holds that prompt and its colour."""
        color = self.prompt["1"]["inputs"]["color"]
        with Image.open(self.path) as picture:
            text = json.loads(picture.info["prompt"])
            return text == self.prompt and picture.getpixel((0, 0)) == (color >> 16, color >> 8 & 255, color & 255)


def picture(number: int, prefix: str, batch: int = 1, size: int = 16) -> dict[str, Any]:
    """A prompt whose colour tells it from all others."""
    inputs = {"width": size, "height": size, "batch_size": batch, "color": number * 4097 % 2**24}
    return {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def save_all(gateway: Gateway, prompts: list[dict[str, Any]]) -> list[Saved]:
    """Send the prompts to all ports at once, and wait for all of them."""
    places = [*gateway.ports, gateway.hub]

    def submit(number: int) -> str:
        answer = request(places[number % len(places)], "POST", "/prompt", {"prompt": prompts[number]})
        assert answer.status == 200, answer
        prompt_id: str = answer.json()["prompt_id"]
        return prompt_id

    with ThreadPoolExecutor(AT_ONCE) as threads:
        sent = dict(zip(threads.map(submit, range(len(prompts))), prompts, strict=True))
    eventually(lambda: not any(queue["running_count"] + queue["pending_count"] for queue in gateway.queues()), PATIENCE)
    histories: dict[str, Any] = {}
    for port in gateway.ports:
        histories |= request(port, "GET", "/history").json()
    return [
        Saved(gateway.folder / "output" / image["subfolder"] / image["filename"], prompt)
        for prompt_id, prompt in sent.items()
        for output in histories[prompt_id]["outputs"].values()
        for image in output["images"]
    ]


def check(saved: list[Saved]) -> None:
    """Every file is named once, exists, and is what it is said to be."""
    assert not [path for path, times in Counter(one.path for one in saved).items() if times > 1]
    assert not [one.path for one in saved if not one.is_right()]


@pytest.mark.parametrize(("count", "batch"), [(1000, 1), (200, 8)])
def test_no_two_jobs_get_the_same_file(protected: Gateway, count: int, batch: int) -> None:
    prefix = f"batch{batch}/ComfyUI"
    saved = save_all(protected, [picture(number, prefix, batch) for number in range(count)])
    assert len(saved) == count * batch
    check(saved)
    # As one ComfyUI would have numbered them: from 1, without a gap.
    names = {path.name for path in (protected.folder / "output" / f"batch{batch}").iterdir()}
    assert names == {f"ComfyUI_{number:05}_.png" for number in range(1, count * batch + 1)}
    left = [path for path in (protected.folder / "state" / "names").glob("*/*") if path.parent.name != "owners"]
    assert left == []


@pytest.mark.skipif(not HOME, reason="COMFYUI_HOME names no ComfyUI")
@pytest.mark.parametrize("prefixes", [("ComfyUI", "ComfyUI"), ("pictures", "texts")], ids=["shared", "apart"])
def test_nodes_of_every_kind_at_once(tmp_path: Path, prefixes: tuple[str, str]) -> None:
    """One file a picture, one file of many pictures, and numbers that the node finds by itself."""
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "listing.py").write_text(LISTING_NODE)
    (tmp_path / "nodes.yaml").write_text(f"test:\n  custom_nodes: {tmp_path / 'nodes'}\n")
    count = 60
    with gpus(tmp_path, COMFYUI, f"arguments = --extra-model-paths-config {tmp_path / 'nodes.yaml'}\n") as gateway:
        prompts = [picture(number, prefixes[0], batch=3) for number in range(count)]
        for prompt in prompts:
            inputs = {"images": ["1", 0], "filename_prefix": prefixes[0]}
            movie = {**inputs, "fps": 5.0, "lossless": True, "quality": 80, "method": "fastest"}
            prompt["2"] = {"class_type": "SaveAnimatedWEBP", "inputs": movie}
            prompt["3"] = {"class_type": "SaveByListing", "inputs": {**inputs, "filename_prefix": prefixes[1]}}
        saved = save_all(gateway, prompts)
    assert len(saved) == len({one.path for one in saved}) == count * 5
    check([one for one in saved if one.path.suffix == ".png"])
    assert all(one.path.exists() for one in saved)
    # What a picture and a movie were given is one number each, so none was used twice for the two.
    assert len({one.path.stem for one in saved if one.path.suffix != ".txt"}) == count * 4


def test_without_the_companion_pictures_are_lost(target: Target, tmp_path: Path) -> None:
    """The race is there, so that the tests above could fail."""
    with gpus(tmp_path, target, NO_COMPANION) as gateway:
        for attempt in range(10):
            saved = save_all(gateway, [picture(number, f"{attempt}/ComfyUI") for number in range(200)])
            assert len(saved) == 200
            if len({one.path for one in saved}) < len(saved):
                assert not all(one.is_right() for one in saved)
                return
    raise AssertionError("not a picture was lost")
