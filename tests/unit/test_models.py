from typing import Any

import pytest

from comfygate.models import MOST_MODELS, listed_files, models_of, shape_of


def workflow(**changes: Any) -> dict[str, Any]:
    sampler = {
        "model": ["4", 0],
        "positive": ["6", 0],
        "seed": 1,
        "steps": 20,
        "cfg": 7.0,
        "denoise": 1.0,
        "sampler_name": "euler",
    }
    return {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "3": {"class_type": "KSampler", "inputs": {**sampler, **changes}},
    }


def one(class_type: str = "Custom", **inputs: Any) -> dict[str, Any]:
    return {"1": {"class_type": class_type, "inputs": inputs}}


@pytest.mark.parametrize(
    ("inputs", "models"),
    [
        ({"ckpt_name": "a.safetensors"}, {"a.safetensors"}),
        ({"unet_name": "sub/b.gguf", "weight_dtype": "default"}, {"sub/b.gguf"}),
        ({"clip_name1": "l.sft", "clip_name2": "t5.sft", "type": "flux"}, {"l.sft", "t5.sft"}),
        ({"vae_name": "taesd"}, {"taesd"}),
        ({"vae_name": "x" * 501, "lora_name": "x" * 600 + ".sft"}, set()),
        ({"lora_name": "None"}, set()),
        ({"lora_name": "none", "control_net_name": ""}, set()),
        ({"anything": "x.PTH"}, {"x.PTH"}),
        ({"text": "a cat.", "filename_prefix": "ComfyUI", "model": ["4", 0], "steps": 20, "on": True}, set()),
        ({"lora_1": {"on": True, "lora": "ink.safetensors", "strength": 1}}, {"ink.safetensors"}),
        ({"lora_1": {"on": False, "lora": "ink.safetensors", "strength": 1}}, set()),
        ({"engine": "listed-without-an-extension"}, {"listed-without-an-extension"}),
    ],
)  # fmt: skip
def test_the_files_that_a_prompt_loads(inputs: dict[str, Any], models: set[str]) -> None:
    assert models_of(one(**inputs), frozenset({"listed-without-an-extension"})) == models


def test_an_endless_list_of_files_is_cut() -> None:
    assert len(models_of(one(**{f"lora_{n}": f"{n}.safetensors" for n in range(1000)}))) == MOST_MODELS


def shape(prompt: dict[str, Any]) -> str:
    return shape_of(prompt, models_of(prompt))


@pytest.mark.parametrize("changes", [{"seed": 2}, {"cfg": 1.5}, {"sampler_name": "dpmpp"}, {"steps": 20.0}])
def test_what_costs_the_same_has_one_shape(changes: dict[str, Any]) -> None:
    assert shape(workflow(**changes)) == shape(workflow())


@pytest.mark.parametrize("changes", [{"steps": 30}, {"denoise": 0.5}, {"negative": ["6", 0]}])
def test_what_costs_something_else_has_another_shape(changes: dict[str, Any]) -> None:
    assert shape(workflow(**changes)) != shape(workflow())


def test_texts_and_ids_make_no_difference_and_models_and_sizes_do() -> None:
    plain = shape(workflow())
    other = workflow()
    other["6"]["inputs"]["text"] = "a dog"
    assert shape(other) == plain
    names = {"3": "30", "4": "40", "5": "50", "6": "60"}
    renamed = {
        names[key]: {
            "class_type": node["class_type"],
            "inputs": {
                name: [names[value[0]], value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            },
        }
        for key, node in reversed(workflow().items())
    }
    assert shape(renamed) == plain
    other["4"]["inputs"]["ckpt_name"] = "b.safetensors"
    assert shape(other) != plain
    large = workflow()
    large["5"]["inputs"]["width"] = 1024
    assert shape(large) != plain


def test_a_node_without_a_class_has_a_shape() -> None:
    assert shape({"1": {"inputs": {"a": ["1", 0], "b": ["gone", 0], "c": [1, 2], "d": None}}})


def test_the_files_that_loaders_list() -> None:
    info = {
        "Loader": {"input": {"required": {"ckpt_name": [["a.safetensors", "odd-one", "None", 5], {}]}}},
        "Newer": {"input": {"optional": {"unet_name": ["COMBO", {"options": ["b.gguf"]}]}}},
        "Sampler": {"input": {"required": {"sampler_name": [["euler", "dpmpp"], {}], "seed": ["INT", {"default": 0}]}}},
        "Odd": {"input": {"required": {"x": [], "y": None, "z": ["COMBO", {"options": 5}]}, "optional": None}},
        "Odder": {"input": 5},
        "Oddest": None,
    }
    assert listed_files(info) == {"a.safetensors", "odd-one", "b.gguf"}
    assert listed_files(["something else"]) == frozenset()
