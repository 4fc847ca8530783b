"""With a real ComfyUI behind, where COMFYUI_HOME names one: what a user feels."""

from __future__ import annotations

import os

from benchmarks.proxy.backends import REAL
from benchmarks.proxy.bodies import IMAGES_AT_ONCE, down
from benchmarks.proxy.scenario import Promise, Scenario
from benchmarks.proxy.small import VARYING, flood, idle

HERE = bool(os.environ.get("COMFYUI_HOME"))
IMAGE = "/view?filename={}&type=output&subfolder="

SCENARIOS = [
    Scenario("ComfyUI: one request, idle", REAL, idle),
    Scenario("ComfyUI: GET, 16 connections", REAL, flood(16, "/embeddings")),
    Scenario("ComfyUI: GET /queue, 16 connections", REAL, flood(16, "/queue")),
    Scenario(
        "ComfyUI: GET /view of 60 kB, each another address, 6 connections",
        REAL,
        flood(6, IMAGE.format("small.png") + "&rand=%d", headers=VARYING),
    ),
    Scenario(
        f"ComfyUI: 2 MB images, {IMAGES_AT_ONCE} at a time",
        REAL,
        down(IMAGE.format("large.png"), IMAGES_AT_ONCE),
    ),
]
if not HERE:
    SCENARIOS = []
PROMISES: list[Promise] = []
PLOTTED: list[tuple[str, str]] = []
