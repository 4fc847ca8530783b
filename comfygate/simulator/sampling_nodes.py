"""Nodes that sample, as far as time, events and pictures go."""

from __future__ import annotations

import time
from typing import Any

from PIL import Image, ImageDraw

from comfygate.simulator.models import ModelFile
from comfygate.simulator.nodes import Images, Input, Latent, decimal, link, node, number, one_of
from comfygate.simulator.run import Run

SAMPLERS = one_of(
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_sde",
    "ddpm",
    "lcm",
    "ddim",
    "uni_pc",
)
SCHEDULERS = one_of(
    "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic"
)
SEED: Input = number(0, 0, 2**64 - 1, control_after_generate=True)
SIDE: Input = number(512, 16, 16384, step=8)
SAMPLING: dict[str, Input] = {
    "steps": number(20, 1, 10000),
    "cfg": ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}),
    "sampler_name": (SAMPLERS, None),
    "scheduler": (SCHEDULERS, None),
    "positive": link("CONDITIONING"),
    "negative": link("CONDITIONING"),
    "latent_image": link("LATENT"),
}


@node(
    "EmptyLatentImage",
    "latent",
    "Empty Latent Image",
    output=("LATENT",),
    required={"width": SIDE, "height": SIDE, "batch_size": number(1, 1, 4096)},
)
def empty_latent(run: Run, *, width: int, height: int, batch_size: int) -> tuple[Latent]:
    """Where sampling starts."""
    return (Latent(width, height, batch_size, 0),)


@node(
    "KSampler",
    "sampling",
    required={
        "model": ("MODEL", {}),
        "seed": SEED,
        **SAMPLING,
        "denoise": decimal(1.0, 0.0, 1.0, 0.01),
    },
    output=("LATENT",),
)
def sample(run: Run, *, model: ModelFile, seed: int, steps: int, latent_image: Latent, **more: Any) -> tuple[Latent]:
    """Steps, each with progress and, where asked for, a preview."""
    return (_sample(run, model, latent_image._replace(seed=seed), steps),)


@node(
    "KSamplerAdvanced",
    "sampling",
    "KSampler (Advanced)",
    required={
        "model": link("MODEL"),
        "add_noise": (one_of("enable", "disable"), None),
        "noise_seed": SEED,
        **SAMPLING,
        "start_at_step": number(0, 0, 10000),
        "end_at_step": number(10000, 0, 10000),
        "return_with_leftover_noise": (one_of("disable", "enable"), None),
    },
    output=("LATENT",),
)
def sample_part(
    run: Run,
    *,
    model: ModelFile,
    noise_seed: int,
    steps: int,
    latent_image: Latent,
    start_at_step: int,
    end_at_step: int,
    **more: Any,
) -> tuple[Latent]:
    """Some of the steps."""
    count = max(0, min(end_at_step, steps) - start_at_step)
    return (_sample(run, model, latent_image._replace(seed=noise_seed), count),)


@node(
    "VAEDecode",
    "latent",
    "VAE Decode",
    output=("IMAGE",),
    required={"samples": ("LATENT", {}), "vae": ("VAE", {})},
)
def decode(run: Run, *, samples: Latent, vae: ModelFile) -> tuple[Images]:
    """Pictures."""
    return ([scene(samples.width, samples.height, samples.seed + index) for index in range(samples.batch)],)


@node("VAEEncode", "latent", "VAE Encode", output=("LATENT",), required={"pixels": link("IMAGE"), "vae": link("VAE")})
def encode(run: Run, *, pixels: Images, vae: ModelFile) -> tuple[Latent]:
    """The way back."""
    width, height = pixels[0].size
    return (Latent(width, height, len(pixels), 0),)


def _sample(run: Run, model: ModelFile, latent: Latent, steps: int) -> Latent:
    run.machine.memory.use(model)
    preview = run.machine.options.preview_method != "none"
    for step in range(1, steps + 1):
        time.sleep(run.machine.options.sim_step_seconds)
        picture = scene(latent.width // 8, latent.height // 8, latent.seed, step / steps) if preview else None
        run.machine.console.meter(step, steps)
        run.progress(step, steps, ("JPEG", picture) if picture else None)
    return latent


def scene(width: int, height: int, seed: int, done: float = 1.0) -> Image.Image:
    """A picture that differs by seed: a sky, a sun, a hill; noise covers what is not `done` (0 to 1)."""
    width, height = max(1, width), max(1, height)
    hue = (seed * 47) % 360
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for row in range(height):
        draw.line((0, row, width, row), fill=f"hsl({hue}, 60%, {25 + 50 * row // height}%)")
    across, radius = width * (20 + seed * 13 % 60) // 100, max(1, min(width, height) // 8)
    draw.ellipse((across - radius, height // 3 - radius, across + radius, height // 3 + radius), fill="#fff3c4")
    draw.ellipse((-width // 4, height * 2 // 3, width, height * 5 // 3), fill=f"hsl({(hue + 120) % 360}, 40%, 30%)")
    if done < 1.0:
        noise = Image.effect_noise((width, height), 90).convert("RGB")
        picture = Image.blend(picture, noise, 1.0 - done)
    return picture
