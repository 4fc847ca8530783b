"""Prompts that every ComfyUI can run on a CPU, without model files."""

from __future__ import annotations

import itertools
from typing import Any

Prompt = dict[str, Any]

_colors = itertools.count(1)


def empty_image(size: int = 64, batch_size: int = 1) -> Prompt:
    """An EmptyImage of a colour not used before, so that nothing is taken from the cache."""
    inputs = {"width": size, "height": size, "batch_size": batch_size, "color": next(_colors)}
    return {"class_type": "EmptyImage", "inputs": inputs}


def node(class_type: str, **inputs: Any) -> Prompt:
    return {"class_type": class_type, "inputs": inputs}


def save(prefix: str = "contract", batch_size: int = 1) -> Prompt:
    """One new picture, saved."""
    return {"1": empty_image(batch_size=batch_size), "2": node("SaveImage", images=["1", 0], filename_prefix=prefix)}


def slow(blurs: int = 12) -> Prompt:
    """A third of a second for each blur, on a CPU."""
    prompt = {"1": empty_image(1024)}
    for number in range(blurs):
        before = str(9 + number) if number else "1"
        prompt[str(10 + number)] = node("ImageBlur", image=[before, 0], blur_radius=31, sigma=10.0)
    prompt["2"] = node("PreviewImage", images=[str(9 + blurs), 0])
    return prompt
