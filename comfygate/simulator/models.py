"""Made-up model files, and the memory that holds a few of them at a time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from attrs import define, field

FILES: dict[str, list[str]] = {
    "checkpoints": [
        *(f"sim-{name}.safetensors" for name in ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot")),
        "v1-5-pruned-emaonly.safetensors",  # of ComfyUI's default workflow and examples
    ],
    "configs": ["sim-v1.yaml"],
    "loras": ["sim-lora-ink.safetensors", "sim-lora-oil.safetensors"],
    "vae": ["sim-vae.safetensors"],
    "text_encoders": ["sim-clip-g.safetensors", "sim-clip-l.safetensors", "sim-t5.safetensors"],
    "diffusion_models": ["sim-flow-large.safetensors", "sim-flow-small.safetensors"],
    "clip_vision": [],
    "style_models": [],
    "embeddings": ["sim-embedding.safetensors"],
    "diffusers": [],
    "vae_approx": [],
    "controlnet": ["sim-canny.safetensors", "sim-depth.safetensors"],
    "gligen": [],
    "upscale_models": ["sim-4x.safetensors"],
    "custom_nodes": [],
    "hypernetworks": [],
    "photomaker": [],
    "classifiers": [],
    "model_patches": [],
    "audio_encoders": [],
}
"""Names in each folder of models; folders in ComfyUI's order."""

WEIGHTS = {"checkpoints": 1.0, "diffusion_models": 1.0, "text_encoders": 0.4, "controlnet": 0.3}
"""Memory and load time of a file, in large models; 0.1 for the folders not named."""


class ModelFile(NamedTuple):
    """One file: what MODEL, CLIP and VAE inputs carry between nodes."""

    folder: str
    name: str

    @property
    def weight(self) -> float:
        """Memory and load time, in large models."""
        return WEIGHTS.get(self.folder, 0.1)


@define
class ModelMemory:
    """Models stay loaded until others push them out, least recently used first.

    :param capacity: how many large models fit.
    :param load_seconds: time to load a large one.
    :param apart: time to load some files, by name, where it is another.
    """

    capacity: float
    load_seconds: float
    apart: dict[str, float] = field(factory=dict)
    loaded: OrderedDict[ModelFile, float] = field(factory=OrderedDict)
    loads: int = 0

    def use(self, model: ModelFile, wait: Callable[[float], None] = time.sleep) -> None:
        """Make sure that `model` is loaded, waiting for it where it is not."""
        if model in self.loaded:
            self.loaded.move_to_end(model)
            return
        wait(self.apart.get(model.name, self.load_seconds * model.weight))
        self.loads += 1
        self.loaded[model] = model.weight
        while self.used > self.capacity and len(self.loaded) > 1:
            self.loaded.popitem(last=False)

    def clear(self) -> None:
        """Unload everything."""
        self.loaded.clear()

    @property
    def used(self) -> float:
        """Memory in use, in large models."""
        return sum(self.loaded.values())


VRAM = 24 * 2**30
"""Bytes of memory that the device claims to have."""


def free_bytes(memory: ModelMemory) -> int:
    """How many of them are free."""
    return int(VRAM * max(0.0, 1.0 - memory.used / max(memory.capacity, 0.1)))
