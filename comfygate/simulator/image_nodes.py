"""Nodes that make, change, load and save pictures."""

from __future__ import annotations

import json
import os
import random
import string
import time
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageFilter, ImageOps
from PIL.PngImagePlugin import PngInfo

from comfygate.simulator.machine import Machine
from comfygate.simulator.nodes import Choice, Images, Input, Ui, decimal, link, node, number, one_of
from comfygate.simulator.run import Run

METHODS = one_of("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
SIZE = {"low": 1, "high": 16384, "step": 1}
PREVIEW_SUFFIX = "_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))
UPLOADED: Input = (Choice(lambda machine: machine.folders.input_images()), {"image_upload": True})


@node(
    "EmptyImage",
    "image",
    output=("IMAGE",),
    required={
        "width": number(512, **SIZE),
        "height": number(512, **SIZE),
        "batch_size": number(1, 1, 4096),
        "color": number(0, 0, 0xFFFFFF, step=1, display="color"),
    },
)
def empty_image(run: Run, *, width: int, height: int, batch_size: int, color: int) -> tuple[Images]:
    """Pictures of one colour."""
    red, green, blue = color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF
    return ([Image.new("RGB", (width, height), (red, green, blue))] * batch_size,)


@node(
    "ImageScale",
    "image/upscaling",
    "Upscale Image",
    output=("IMAGE",),
    required={
        "image": link("IMAGE"),
        "upscale_method": (METHODS, None),
        "width": number(512, 0, 16384, step=1),
        "height": number(512, 0, 16384, step=1),
        "crop": (one_of("disabled", "center"), None),
    },
)
def image_scale(run: Run, *, image: Images, upscale_method: str, width: int, height: int, crop: str) -> tuple[Images]:
    """Another size; 0 for one side keeps the proportions."""
    if width == 0 and height == 0:
        return (image,)
    old_width, old_height = image[0].size
    width = width or max(1, round(old_width * height / old_height))
    height = height or max(1, round(old_height * width / old_width))
    fit = ImageOps.fit if crop == "center" else Image.Image.resize
    return ([fit(picture, (width, height)) for picture in image],)


@node(
    "ImageScaleBy",
    "image/upscaling",
    "Upscale Image By",
    output=("IMAGE",),
    required={
        "image": link("IMAGE"),
        "upscale_method": (METHODS, None),
        "scale_by": decimal(1.0, 0.01, 8.0, 0.01),
    },
)
def image_scale_by(run: Run, *, image: Images, upscale_method: str, scale_by: float) -> tuple[Images]:
    """Another size, as a factor."""
    width, height = image[0].size
    size = max(1, round(width * scale_by)), max(1, round(height * scale_by))
    return ([picture.resize(size) for picture in image],)


@node(
    "ImageBlur",
    "image/postprocessing",
    output=("IMAGE",),
    required={
        "image": ("IMAGE", {}),
        "blur_radius": number(1, 1, 31, step=1),
        "sigma": decimal(1.0, 0.1, 10.0, 0.1),
    },
    module="comfy_extras.nodes_post_processing",
)
def image_blur(run: Run, *, image: Images, blur_radius: int, sigma: float) -> tuple[Images]:
    """A blurred picture, in the time that a CPU needs: 0.3 s for a megapixel and a radius of 31."""
    width, height = image[0].size
    time.sleep(len(image) * width * height * blur_radius * 1e-8)
    return ([picture.filter(ImageFilter.BoxBlur(min(blur_radius, sigma))) for picture in image],)


@node("ImageInvert", "image", "Invert Image", output=("IMAGE",), required={"image": link("IMAGE")})
def image_invert(run: Run, *, image: Images) -> tuple[Images]:
    """The negative."""
    return ([ImageOps.invert(picture.convert("RGB")) for picture in image],)


@node(
    "ImageBatch",
    "image",
    "Batch Images",
    output=("IMAGE",),
    required={"image1": link("IMAGE"), "image2": link("IMAGE")},
)
def image_batch(run: Run, *, image1: Images, image2: Images) -> tuple[Images]:
    """Two batches as one, in the size of the first."""
    return (image1 + [picture.resize(image1[0].size) for picture in image2],)


def _loaded_path(machine: Machine, name: str) -> str:
    plain, folder = machine.folders.annotated(name)
    return os.path.join(folder or machine.folders.input, plain)


def _content(machine: Machine, inputs: Mapping[str, Any]) -> str:
    with open(_loaded_path(machine, str(inputs["image"])), "rb") as file:
        return machine.digest(file.read())


def _missing(machine: Machine, image: Any) -> str | None:
    return None if os.path.exists(_loaded_path(machine, str(image))) else f"Invalid image file: {image}"


@node(
    "LoadImage",
    "image",
    "Load Image",
    output=("IMAGE", "MASK"),
    required={"image": UPLOADED},
    changed=_content,
    checks={"image": _missing},
)
def load_image(run: Run, *, image: str) -> tuple[Images, Images]:
    """A picture from the input folder."""
    with Image.open(_loaded_path(run.machine, image)) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGBA")
    return [picture.convert("RGB")], [ImageOps.invert(picture.getchannel("A"))]


def add_image_node(name: str) -> None:
    """Make one more class known, which hands its image on: what a custom node does, as far as clients see."""

    @node(name, "custom", output=("IMAGE",), required={"image": link("IMAGE")}, module=f"custom_nodes.{name}")
    def hand_on(run: Run, *, image: Images) -> tuple[Images]:
        return (image,)


SAVED: dict[str, Input] = {"images": ("IMAGE", {}), "filename_prefix": ("STRING", {"default": "ComfyUI"})}


@node("SaveImage", "image", "Save Image", required=SAVED, is_output=True, takes_prompt=True)
def save_image(run: Run, *, images: Images, filename_prefix: str) -> Ui:
    """PNG files in the output folder."""
    return _save(run, images, filename_prefix, "output", 4)


@node("PreviewImage", "image", "Preview Image", required={"images": link("IMAGE")}, is_output=True, takes_prompt=True)
def preview_image(run: Run, *, images: Images) -> Ui:
    """PNG files in the temp folder."""
    return _save(run, images, "ComfyUI" + PREVIEW_SUFFIX, "temp", 1)


@node(
    "SaveImageWebsocket",
    "api/image",
    required={"images": link("IMAGE")},
    is_output=True,
    module="custom_nodes.websocket_image_save",
    changed=lambda machine, inputs: str(time.time()),
)
def save_image_websocket(run: Run, *, images: Images) -> Ui:
    """PNG pictures to the client instead of to a file."""
    for index, picture in enumerate(images):
        run.progress(index, len(images), ("PNG", picture))
    return Ui({})


def _save(run: Run, images: Images, prefix: str, kind: str, compress_level: int) -> Ui:
    root = run.machine.folders.by_type(kind) or run.machine.folders.output
    # Taken apart as ComfyUI's nodes do it, since the companion reads how the number is used.
    folder, filename, counter, subfolder, _ = run.machine.save_path(prefix, root, *images[0].size)
    saved = []
    for index, picture in enumerate(images):
        stem = filename.replace("%batch_num%", str(index))
        name = f"{stem}_{counter + index:05}_.png"
        path = os.path.join(folder, name)
        picture.save(path, pnginfo=_metadata(run), compress_level=compress_level)
        saved.append({"filename": name, "subfolder": subfolder, "type": kind})
    return Ui({"images": saved})


def _metadata(run: Run) -> PngInfo | None:
    if run.machine.options.disable_metadata:
        return None
    texts = PngInfo()
    texts.add_text("prompt", json.dumps(run.prompt))
    for key, value in (run.extra_pnginfo or {}).items():
        texts.add_text(key, json.dumps(value))
    return texts
