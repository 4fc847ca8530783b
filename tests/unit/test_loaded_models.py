"""What the companion tells of models in memory, and how the daemon reads it."""

from __future__ import annotations

import gc
from typing import Any

import orjson
import pytest

from comfygate.backend.monitor import MOST_MODELS, holding_of
from comfygate.companion.custom_nodes.comfygate_companion.models import Follower, Reports, following, within
from comfygate.model import Holding


class Model:
    """A network."""


class Patcher:
    """What ComfyUI wraps around a network."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def clone(self) -> Patcher:
        return Patcher(self.model)


class Clip:
    """What it wraps around a text encoder."""

    def __init__(self) -> None:
        self.patcher = Patcher(Model())


def test_models_are_known_by_the_name_under_which_they_were_looked_up_for_as_long_as_they_live() -> None:
    follower = Follower()
    follower.found("sub/a.safetensors", "/models/checkpoints/sub/a.safetensors")
    follower.found("missing.safetensors", None)

    def load_checkpoint(ckpt_path: str, output_vae: bool = True) -> tuple[Any, ...]:
        return Patcher(Model()), Clip(), None, 5

    read = following(load_checkpoint, follower)
    made = read("/models/checkpoints/sub/a.safetensors", output_vae=True)
    other = following(lambda ckpt_paths, **more: Clip(), follower)(
        ckpt_paths=["/elsewhere/l.sft", "/elsewhere/t5.sft"], embedding_directory=["/models/embeddings"]
    )
    assert follower.models([]) == ["sub/a.safetensors", "l.sft", "t5.sft"]
    assert follower.models([within(made[0])]) == ["l.sft", "t5.sft", "sub/a.safetensors"]
    copy = made[0].clone()
    del made
    gc.collect()
    assert follower.models([within(copy)])[-1] == "sub/a.safetensors"
    del copy, other
    gc.collect()
    assert follower.models([]) == []


def test_it_is_told_when_a_prompt_begins_and_when_it_ends() -> None:
    reports = Reports(lambda: ["a"], lambda: 7)
    assert reports.event("execution_start", {"prompt_id": "p"}) is None
    begin = {"prompt_id": "p", "ended": False, "models": ["a"], "free_memory": 7}
    assert reports.event("execution_cached", {"prompt_id": "p", "nodes": []}) == begin
    assert reports.event("execution_cached", {"prompt_id": "p", "nodes": []}) is None  # heard twice, said once
    assert reports.event("execution_success", {"prompt_id": "p"}) == {**begin, "ended": True}
    assert reports.event("execution_success", {"prompt_id": "p"}) is None


@pytest.mark.parametrize("data", [None, {}, {"prompt_id": 5}])
def test_what_has_another_form_is_passed_over(data: Any) -> None:
    assert Reports(list, lambda: None).event("execution_cached", data) is None


def said(**changes: Any) -> bytes:
    data = {"prompt_id": "p", "ended": True, "models": ["a", "b"], "free_memory": 7} | changes
    return orjson.dumps({"type": "comfygate.models", "data": data})


def test_the_daemon_reads_it() -> None:
    assert holding_of(said()) == Holding(prompt_id="p", models=("a", "b"), free_memory=7, ended=True)
    assert holding_of(said(free_memory=None, ended=False)).free_memory is None
    assert len(holding_of(said(models=["x" * 10_000] * 10_000)).models) == MOST_MODELS


@pytest.mark.parametrize(
    "message", [b"{", b"[]", b'{"type": "comfygate.models"}', said(models=None), said(models=[5]), said(prompt_id=None)]
)
def test_what_is_no_such_message(message: bytes) -> None:
    with pytest.raises(ValueError, match="no message about models"):
        holding_of(message)
