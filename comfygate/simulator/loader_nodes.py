"""Nodes that load models, as far as time and memory go."""

from __future__ import annotations

from typing import Any

from comfygate.simulator.models import ModelFile
from comfygate.simulator.nodes import Input, decimal, link, model_file, node, one_of
from comfygate.simulator.run import Run

STRENGTH = decimal(1.0, -100.0, 100.0, 0.01)


def _load(run: Run, folder: str, name: str) -> ModelFile:
    model = ModelFile(folder, name)
    run.machine.memory.use(model)
    return model


@node(
    "CheckpointLoaderSimple",
    "loaders",
    "Load Checkpoint",
    output=("MODEL", "CLIP", "VAE"),
    required={"ckpt_name": (model_file("checkpoints"), {})},
)
def load_checkpoint(run: Run, *, ckpt_name: str) -> tuple[ModelFile, ModelFile, ModelFile]:
    """A model with its CLIP and VAE."""
    model = _load(run, "checkpoints", ckpt_name)
    return model, model, model


@node(
    "UNETLoader",
    "advanced/loaders",
    "Load Diffusion Model",
    output=("MODEL",),
    required={
        "unet_name": (model_file("diffusion_models"), None),
        "weight_dtype": (one_of("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"), None),
    },
)
def load_unet(run: Run, *, unet_name: str, weight_dtype: str) -> tuple[ModelFile]:
    """A model alone."""
    return (_load(run, "diffusion_models", unet_name),)


DEVICE: dict[str, Input] = {"device": (one_of("default", "cpu"), {"advanced": True})}


@node(
    "CLIPLoader",
    "advanced/loaders",
    "Load CLIP",
    output=("CLIP",),
    required={
        "clip_name": (model_file("text_encoders"), None),
        "type": (one_of("stable_diffusion", "stable_cascade", "sd3", "wan", "qwen_image"), None),
    },
    optional=DEVICE,
)
def load_clip(run: Run, *, clip_name: str, type: str, device: str = "default") -> tuple[ModelFile]:
    """A text encoder."""
    return (_load(run, "text_encoders", clip_name),)


@node(
    "DualCLIPLoader",
    "advanced/loaders",
    output=("CLIP",),
    required={
        "clip_name1": (model_file("text_encoders"), None),
        "clip_name2": (model_file("text_encoders"), None),
        "type": (one_of("sdxl", "sd3", "flux"), None),
    },
    optional=DEVICE,
)
def load_two_clips(
    run: Run, *, clip_name1: str, clip_name2: str, type: str, device: str = "default"
) -> tuple[ModelFile]:
    """Two text encoders."""
    _load(run, "text_encoders", clip_name2)
    return (_load(run, "text_encoders", clip_name1),)


@node(
    "VAELoader", "loaders", "Load VAE", output=("VAE",), required={"vae_name": (model_file("vae", "pixel_space"), None)}
)
def load_vae(run: Run, *, vae_name: str) -> tuple[ModelFile]:
    """A VAE."""
    return (_load(run, "vae", vae_name),)


@node(
    "LoraLoader",
    "loaders",
    "Load LoRA",
    output=("MODEL", "CLIP"),
    required={
        "model": link("MODEL"),
        "clip": link("CLIP"),
        "lora_name": (model_file("loras"), None),
        "strength_model": STRENGTH,
        "strength_clip": STRENGTH,
    },
)
def load_lora(
    run: Run, *, model: ModelFile, clip: ModelFile, lora_name: str, strength_model: float, strength_clip: float
) -> tuple[ModelFile, ModelFile]:
    """A model and its CLIP with a LoRA on top."""
    _load(run, "loras", lora_name)
    return model, clip


@node(
    "LoraLoaderModelOnly",
    "loaders",
    output=("MODEL",),
    required={"model": link("MODEL"), "lora_name": (model_file("loras"), None), "strength_model": STRENGTH},
)
def load_lora_for_model(run: Run, *, model: ModelFile, lora_name: str, strength_model: float) -> tuple[ModelFile]:
    """A model with a LoRA on top."""
    _load(run, "loras", lora_name)
    return (model,)


@node(
    "ControlNetLoader",
    "loaders",
    "Load ControlNet Model",
    output=("CONTROL_NET",),
    required={"control_net_name": (model_file("controlnet"), None)},
)
def load_control_net(run: Run, *, control_net_name: str) -> tuple[ModelFile]:
    """A ControlNet."""
    return (_load(run, "controlnet", control_net_name),)


@node(
    "UpscaleModelLoader",
    "loaders",
    "Load Upscale Model",
    output=("UPSCALE_MODEL",),
    required={"model_name": (model_file("upscale_models"), None)},
    module="comfy_extras.nodes_upscale_model",
)
def load_upscale_model(run: Run, *, model_name: str) -> tuple[ModelFile]:
    """A model that enlarges pictures."""
    return (_load(run, "upscale_models", model_name),)


@node(
    "CLIPTextEncode",
    "conditioning",
    "CLIP Text Encode (Prompt)",
    output=("CONDITIONING",),
    required={"text": ("STRING", {"multiline": True, "dynamicPrompts": True}), "clip": ("CLIP", {})},
)
def encode_text(run: Run, *, text: str, clip: ModelFile) -> tuple[str]:
    """A text, encoded: here, the text."""
    return (text,)


@node(
    "ControlNetApplyAdvanced",
    "conditioning/controlnet",
    "Apply ControlNet",
    output=("CONDITIONING", "CONDITIONING"),
    output_name=("positive", "negative"),
    required={
        "positive": link("CONDITIONING"),
        "negative": link("CONDITIONING"),
        "control_net": link("CONTROL_NET"),
        "image": link("IMAGE"),
        "strength": decimal(1.0, 0.0, 10.0, 0.01),
        "start_percent": decimal(0.0, 0.0, 1.0, 0.001),
        "end_percent": decimal(1.0, 0.0, 1.0, 0.001),
    },
    optional={"vae": link("VAE")},
)
def apply_control_net(
    run: Run, *, positive: str, negative: str, control_net: ModelFile, **more: Any
) -> tuple[str, str]:
    """Conditioning by a picture."""
    run.machine.memory.use(control_net)
    return positive, negative
