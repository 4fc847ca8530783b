"""The command line: ComfyUI's options that a supervisor may pass, and our own ``--sim-*``."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence

from comfygate.simulator.plans import BEFORE, KINDS, read_plan

ENVIRONMENT = "COMFYGATE_SIMULATOR"
"""Variable with extra arguments; those of the command line win over them."""

EVERY_ADDRESS = "0.0.0.0,::"
"""What ComfyUI means by a bare --listen."""

# Accepted for the sake of the caller; they change nothing here.
_IGNORED_FLAGS = (
    "auto-launch",
    "disable-auto-launch",
    "cuda-malloc",
    "disable-cuda-malloc",
    "force-fp32",
    "force-fp16",
    "fp32-unet",
    "fp64-unet",
    "bf16-unet",
    "fp16-unet",
    "fp8_e4m3fn-unet",
    "fp8_e5m2-unet",
    "fp8_e8m0fnu-unet",
    "fp16-vae",
    "fp32-vae",
    "bf16-vae",
    "cpu-vae",
    "fp8_e4m3fn-text-enc",
    "fp8_e5m2-text-enc",
    "fp16-text-enc",
    "fp32-text-enc",
    "bf16-text-enc",
    "force-channels-last",
    "disable-ipex-optimize",
    "supports-fp8-compute",
    "cache-classic",
    "use-split-cross-attention",
    "use-quad-cross-attention",
    "use-pytorch-cross-attention",
    "use-sage-attention",
    "use-flash-attention",
    "disable-xformers",
    "force-upcast-attention",
    "dont-upcast-attention",
    "gpu-only",
    "highvram",
    "normalvram",
    "lowvram",
    "novram",
    "async-offload",
    "force-non-blocking",
    "disable-smart-memory",
    "deterministic",
    "mmap-torch-files",
    "disable-mmap",
    "dont-print-server",
    "quick-test-for-ci",
    "windows-standalone-build",
    "disable-all-custom-nodes",
    "disable-api-nodes",
)
_IGNORED_VALUES = (
    "tls-keyfile",
    "tls-certfile",
    "default-device",
    "oneapi-device-selector",
    "cache-lru",
    "reserve-vram",
    "front-end-version",
    "front-end-root",
    "comfy-api-base",
    "database-url",
)


def parser() -> argparse.ArgumentParser:
    """Every option that the simulator knows; an unknown one ends the program with status 2, as in ComfyUI."""
    options = argparse.ArgumentParser(prog="comfygate.simulator", description=__doc__)
    _add_comfyui_options(options)
    _add_ignored_options(options)
    _add_own_options(options.add_argument_group("the stand-in's own"))
    return options


def _seconds_of_file(text: str) -> tuple[str, float]:
    name, _, seconds = text.rpartition("=")
    return name, float(seconds)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read `arguments`, after those that the environment adds."""
    return parser().parse_args([*shlex.split(os.environ.get(ENVIRONMENT, "")), *arguments])


def _add_comfyui_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument
    add("--listen", default="127.0.0.1", nargs="?", const=EVERY_ADDRESS, metavar="IP", help="addresses, with commas")
    add("--port", type=int, default=8188, help="listening port")
    add("--enable-cors-header", default=None, nargs="?", const="*", metavar="ORIGIN", help="let other origins in")
    add("--max-upload-size", type=float, default=100, help="largest request body in MB")
    add("--base-directory", default=None, help="folder that holds input, output, temp and user")
    add("--extra-model-paths-config", nargs="+", action="append", metavar="PATH", default=[], help="YAML files")
    add("--output-directory", default=None, help="where images are saved")
    add("--temp-directory", default=None, help="X: previews go to X/temp, which is emptied at the start")
    add("--input-directory", default=None, help="where uploads go")
    add("--user-directory", default=None, help="settings and saved workflows")
    add("--cuda-device", default=None, metavar="DEVICE_ID", help="number of the GPU to appear as")
    add("--cpu", action="store_true", help="appear as a machine without a GPU")
    add("--preview-method", default="none", choices=["none", "auto", "latent2rgb", "taesd"], help="sampler previews")
    add("--preview-size", type=int, default=512, help="largest side of a preview in pixels")
    add("--cache-none", action="store_true", help="execute every node every time")
    add("--disable-metadata", action="store_true", help="save images without the prompt")
    add("--multi-user", action="store_true", help="one folder for each user, named by the comfy-user header")
    add("--enable-compress-response-body", action="store_true", help="gzip JSON and text answers")
    add("--default-hashing-function", default="sha256", choices=["md5", "sha1", "sha256", "sha512"], help="of uploads")
    add("--verbose", default="INFO", const="DEBUG", nargs="?", help="logging level")
    add("--log-stdout", action="store_true", help="log to stdout instead of stderr")


def _add_ignored_options(options: argparse.ArgumentParser) -> None:
    ignored = options.add_argument_group("accepted and without effect here")
    for name in _IGNORED_FLAGS:
        ignored.add_argument(f"--{name}", action="store_true")
    for name in _IGNORED_VALUES:
        ignored.add_argument(f"--{name}")
    ignored.add_argument("--directml", nargs="?", type=int, const=-1)
    ignored.add_argument("--fast", nargs="*")
    ignored.add_argument("--whitelist-custom-nodes", nargs="+")


def _add_own_options(own: argparse._ArgumentGroup) -> None:
    add = own.add_argument
    add("--sim-node-seconds", type=float, default=0.0, metavar="S", help="time that every executed node takes")
    add("--sim-step-seconds", type=float, default=0.05, metavar="S", help="time of one sampling step")
    add("--sim-model-seconds", type=float, default=0.5, metavar="S", help="time to load a large model file")
    add(
        "--sim-load",
        type=_seconds_of_file,
        action="append",
        default=[],
        metavar="NAME=S",
        help="time to load one model file; may be given for several",
    )
    add("--sim-memory", type=float, default=2.0, metavar="N", help="large model files that stay loaded at once")
    add(
        "--sim-node",
        action="append",
        default=[],
        metavar="CLASS",
        help="have one more class of nodes, which hands its image on; may be given several times",
    )
    add(
        "--sim-model",
        action="append",
        default=[],
        metavar="FOLDER/NAME",
        help="have one more file of models; may be given several times",
    )
    add(
        "--sim-newer",
        action="store_true",
        help="be a ComfyUI of 2026: /api/jobs, create_time, and missing_node_type for unknown classes",
    )
    add("--sim-disk-seconds", type=float, default=0.0, metavar="S", help="time to save an upload or a user's file")
    add("--sim-start-seconds", type=float, default=0.0, metavar="S", help="time before the port opens")
    add(
        "--sim-fail-start",
        type=int,
        default=0,
        metavar="N",
        help="fail the first N starts with one --temp-directory; -1: all",
    )
    add("--sim-fail-status", type=int, default=1, metavar="STATUS", help="exit status of a failed start")
    add("--sim-exit-after", type=float, default=None, metavar="S", help="crash S seconds after the port opened")
    add(
        "--sim-hang-after", type=float, default=None, metavar="S", help="stop answering S seconds after the port opened"
    )
    faults = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    _add_plan(
        own,
        "--sim-prompt-fault",
        f"what to do in place of answering the N-th POST /prompt (*N: every N-th), "
        f"counted over restarts with one --temp-directory. {faults}. The prompt is queued all the same; with {BEFORE} "
        "behind KIND it is not. May be given several times",
    )
    _add_plan(own, "--sim-look-fault", "the same for GET /queue and /history")


def _add_plan(own: argparse._ArgumentGroup, name: str, text: str) -> None:
    own.add_argument(name, type=read_plan, action="append", default=[], metavar="KIND[:N]", help=text)
