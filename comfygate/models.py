"""What a prompt costs: the model files that it loads, and the shape that its run time depends on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

LONGEST_NAME = 500
"""Characters of a file's name; longer values are none, and names are remembered."""

MOST_MODELS = 64
"""Files of one prompt that are taken into account; a longer list says nothing useful."""

_EXTENSION = re.compile(r"\.(?:safetensors|sft|ckpt|pth?|pt2|bin|pkl|gguf|onnx|engine)$", re.IGNORECASE)
"""What ComfyUI (``folder_paths.supported_pt_extensions``) and well-known custom nodes take for models."""

_NAMED = frozenset(
    {
        *("ckpt_name", "unet_name", "vae_name", "lora_name", "control_net_name", "style_model_name", "gligen_name"),
        *("clip_name", "clip_name1", "clip_name2", "clip_name3", "clip_name4", "hypernetwork_name"),
        *("audio_encoder_name", "photomaker_model_name"),
    }
)
"""Inputs of ComfyUI's own loaders that name a file, whatever its extension."""

_NOTHING = frozenset({"", "none", "default"})

_COSTLY = re.compile(
    r"width|height|size|step|length|frame|batch|count|amount|scale|factor|pixels|denoise|resolution|second|duration"
    r"|repeat|tile|times",
    re.IGNORECASE,
)
"""Inputs whose numbers say how much work a node has: sizes, steps, lengths, counts."""


def models_of(prompt: Mapping[str, Any], files: frozenset[str] = frozenset()) -> frozenset[str]:
    """The model files that a prompt loads, as it names them.

    A value is one if a loader's input has it, if it ends like a model file, or
    if it is among `files`.

    :param prompt: checked: nodes with class_type and inputs, by id.
    :param files: what the loaders of a ComfyUI list, see :func:`listed_files`.
    """
    found: set[str] = set()
    for node in prompt.values():
        for name, value in node["inputs"].items():
            for text in _texts(value):
                named = name in _NAMED and text.lower() not in _NOTHING
                if len(text) > LONGEST_NAME:
                    continue
                if named or text in files or _EXTENSION.search(text):
                    found.add(text)
    return frozenset(sorted(found)[:MOST_MODELS])


def shape_of(prompt: Mapping[str, Any], models: Iterable[str]) -> str:
    """A name for all prompts that cost the same: one graph, the same sizes and steps, the same models.

    Seeds, texts and the ids of nodes make no difference.

    :param models: see :func:`models_of`.
    """
    nodes = sorted(orjson.dumps(_described(prompt, node)) for node in prompt.values())
    whole = b"\n".join([*nodes, *(model.encode("utf-8", "replace") for model in sorted(models))])
    return hashlib.blake2b(whole, digest_size=12).hexdigest()


def listed_files(object_info: object) -> frozenset[str]:
    """The files that loaders offer in ``GET /object_info``: lists of choices in which at least one looks like a model.

    :param object_info: the answer, read from JSON; what has another form is passed over.
    """
    found: set[str] = set()
    for info in object_info.values() if isinstance(object_info, dict) else ():
        for choices in _choices(info):
            names = [name for name in choices if isinstance(name, str)]
            if any(_EXTENSION.search(name) for name in names):
                found.update(name for name in names if name.lower() not in _NOTHING)
    return frozenset(found)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and value.get("on") is not False:  # a row of a node with several LoRAs
        yield from (text for text in value.values() if isinstance(text, str))


def _described(prompt: Mapping[str, Any], node: Mapping[str, Any]) -> list[Any]:
    inputs: list[list[Any]] = []
    for name, value in sorted(node["inputs"].items()):
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in prompt:
            inputs.append([name, prompt[value[0]].get("class_type"), str(value[1])])
        elif isinstance(value, int | float) and _COSTLY.search(name):
            inputs.append([name, float(value)])
    return [node.get("class_type"), inputs]


def _choices(info: object) -> Iterator[list[Any]]:
    """Every list of choices of a node class: ``[[…], {}]``, or ``["COMBO", {"options": […]}]`` in newer versions."""
    groups = info.get("input") if isinstance(info, dict) else None
    for group in groups.values() if isinstance(groups, dict) else ():
        for spec in group.values() if isinstance(group, dict) else ():
            if not isinstance(spec, list) or not spec:
                continue
            if isinstance(spec[0], list):
                yield spec[0]
            elif len(spec) > 1 and isinstance(spec[1], dict) and isinstance(spec[1].get("options"), list):
                yield spec[1]["options"]
