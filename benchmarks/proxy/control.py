"""Prompts: what the control plane adds, which checks, validates and journals before it answers."""

from __future__ import annotations

import orjson

from benchmarks.proxy.backends import ONE_SIMULATOR
from benchmarks.proxy.load import small
from benchmarks.proxy.scenario import Figures, Promise, Scenario, Target
from benchmarks.proxy.small import figures
from tests.gateway import eventually, request, workflow

CONNECTIONS = 4


def prompts(target: Target, seconds: float) -> Figures:
    """Prompts, one after the other on each connection; then everything that waits is removed."""
    body = orjson.dumps({"prompt": workflow()})
    with target.used() as used:
        found = small(target.port, "/prompt", target.folder, connections=CONNECTIONS, seconds=seconds, body=body)
    request(target.port, "POST", "/queue", {"clear": True})
    eventually(lambda: not _left(target.port), seconds=120)
    return figures(found, used)


def _left(port: int) -> bool:
    queue = request(port, "GET", "/queue", seconds=120).json()
    return bool(queue["queue_running"] or queue["queue_pending"])


NAME = f"POST /prompt, {CONNECTIONS} connections"
SCENARIOS = [Scenario(NAME, ONE_SIMULATOR, prompts)]
PROMISES: list[Promise] = []
PLOTTED: list[tuple[str, str]] = []
