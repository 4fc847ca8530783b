"""Policies of a whole daemon, from outside: who runs what, and how often models are loaded."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Gateway, eventually, request, running

MODELS = ["sim-alpha.safetensors", "sim-bravo.safetensors"]
LOADS = "arguments = --sim-memory 1 --sim-model-seconds 1.5 --sim-step-seconds 0.02"
SLOW_LOADS = f"rate = 0\nshutdown_grace = 0\n{LOADS}\n"

_seeds = itertools.count(1)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path, SLOW_LOADS, gpus=2) as gateway:
        yield gateway


def workflow(model: str, steps: int = 5) -> dict[str, Any]:
    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    sampling = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "cfg": 7.0, "steps": steps}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=model),
        "2": node("CLIPTextEncode", text="a cat", clip=["1", 1]),
        "3": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "4": node("KSampler", seed=next(_seeds), **sampling, **links),
        "5": node("VAEDecode", samples=["4", 0], vae=["1", 2]),
        "6": node("PreviewImage", images=["5", 0]),
    }


def send(gateway: Gateway, models: Iterable[str], **headers: str) -> list[str]:
    ids = []
    for model in models:
        answer = request(gateway.hub, "POST", "/prompt", {"prompt": workflow(model)}, headers)
        assert answer.status == 200, answer.body
        ids.append(answer.json()["prompt_id"])
    return ids


def ran(gateway: Gateway, count: int) -> list[list[str]]:
    """The models of the prompts that each GPU has run, in their order, once there are so many in all."""
    histories: list[dict[str, Any]] = []

    def all_there() -> bool:
        histories[:] = [request(port, "GET", "/history").json() for port in gateway.ports]
        return sum(map(len, histories)) == count

    eventually(all_there, every=0.2)
    return [[entry["prompt"][2]["1"]["inputs"]["ckpt_name"] for entry in one.values()] for one in histories]


def loads(models: list[str]) -> int:
    return sum(1 for before, after in itertools.pairwise([None, *models]) if before != after)


def test_prompts_that_alternate_between_two_models_go_each_to_its_own_gpu(gateway: Gateway) -> None:
    send(gateway, MODELS)  # both GPUs load one
    ran(gateway, 2)
    assert sorted(model for gpu in gateway.status()["gpus"] for model in gpu["models"]) == MODELS
    send(gateway, MODELS * 10)
    found = ran(gateway, 22)
    assert sum(map(loads, found)) <= 4, found  # in the order of their arrival it would be some 20
    assert min(map(len, found)) > 5


def test_a_pinned_prompt_goes_where_its_model_is_not(gateway: Gateway) -> None:
    send(gateway, MODELS)
    ran(gateway, 2)
    first = next(n for n, gpu in enumerate(gateway.status()["gpus"]) if gpu["models"] == [MODELS[0]])
    send(gateway, MODELS[:1], **{"X-Target-GPU": str(1 - first)})
    assert ran(gateway, 3)[1 - first] == [MODELS[1], MODELS[0]]


def test_the_models_of_the_next_prompts_are_read_ahead(tmp_path: Path) -> None:
    with running(tmp_path, SLOW_LOADS + "policy = least-loaded\n", gpus=1) as gateway:
        send(gateway, [MODELS[0], *MODELS])
        log = tmp_path / "state" / "gpu-0" / "comfyui.log"
        eventually(lambda: f"[comfygate] reads ahead: {MODELS[1]}" in log.read_text())
        assert f"reads ahead: {MODELS[0]}" not in log.read_text()


@pytest.mark.parametrize("policy", ["fair", "most-free-memory", "weighted", "round-robin"])
def test_every_policy_gets_its_work_done(tmp_path: Path, policy: str) -> None:
    with running(tmp_path, f"rate = 0\npolicy = {policy}\n[gpu:1]\nweight = 3\n", gpus=2) as gateway:
        send(gateway, MODELS * 4)
        assert all(ran(gateway, 8))
