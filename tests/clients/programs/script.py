"""comfy-script: the prompts of the test, written as it writes workflows."""

from __future__ import annotations

from typing import Any

from comfy_script.runtime import Workflow, load
from exchange import Prompt, done, task

url, prompts, together = task()
load(url)

from comfy_script.runtime.nodes import (  # noqa: E402  # made by load()
    CheckpointLoaderSimple,
    CLIPTextEncode,
    EmptyLatentImage,
    KSampler,
    SaveImage,
    VAEDecode,
)


def queue(prompt: Prompt) -> Any:
    of = {node["class_type"]: node["inputs"] for node in prompt.values()}
    with Workflow() as workflow:
        model, clip, vae = CheckpointLoaderSimple(of["CheckpointLoaderSimple"]["ckpt_name"])
        size = of["EmptyLatentImage"]
        sampler = of["KSampler"]
        latent = KSampler(
            model,
            sampler["seed"],
            sampler["steps"],
            sampler["cfg"],
            sampler["sampler_name"],
            sampler["scheduler"],
            CLIPTextEncode(prompt["6"]["inputs"]["text"], clip),
            CLIPTextEncode(prompt["7"]["inputs"]["text"], clip),
            EmptyLatentImage(size["width"], size["height"], size["batch_size"]),
        )
        SaveImage(VAEDecode(latent, vae), of["SaveImage"]["filename_prefix"])
    return workflow.task


def images(queued: Any) -> list[bytes]:
    (saved,) = queued.wait()
    return [picture.fp.getvalue() for picture in saved.wait()]


if together:
    done([images(one) for one in [queue(prompt) for prompt in prompts]])
else:
    done([images(queue(prompt)) for prompt in prompts])
