"""The same load on a whole daemon with four simulated GPUs that hold one model each.

Prompts are sent as they arrive: to the hub, or, as clients do that balance by
themselves, each to the port of a GPU that the sender chooses.  A prompt has
ended when the daemon says so.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from benchmarks.routing.load import GPUS, Load, Prompt
from benchmarks.routing.simulation import Outcome
from comfygate.simulator.models import FILES
from tests.gateway import Gateway, eventually, request, running

STEPS = 5
NAMES = FILES["checkpoints"]


def measure(folder: Path, load: Load, way: str, run: float) -> Outcome:
    """Run a load on a daemon of its own.

    :param way: a policy of the hub, or ``round-robin on arrival`` or ``shortest queue on arrival``.
    :param run: seconds that a run takes whose model is loaded.
    """
    policy = "affinity" if "arrival" in way else way
    arguments = [f"--sim-step-seconds {run / STEPS}", "--sim-memory 1"]
    arguments += [f"--sim-load {NAMES[int(name[-1])]}={seconds * run:.4f}" for name, seconds in load.loads.items()]
    lines = f"rate = 0\npolicy = {policy}\narguments = {' '.join(arguments)}\nshutdown_grace = 0\n"
    folder.mkdir(parents=True)
    with running(folder, lines, gpus=GPUS) as gateway:
        began = time.monotonic()
        arrived = _send_all(gateway, load, way, run, began)
        eventually(lambda: _left(gateway) == 0, seconds=3600, every=0.2)
        starts, ends = _times(gateway)
    offset = time.time() - time.monotonic()
    waits = tuple(max(0.0, starts[prompt_id] - offset - at) / run for prompt_id, at in arrived.items())
    assert len(waits) == len(load.prompts), "some prompts are missing in the history"
    return Outcome((max(ends.values()) - offset - began) / run, waits, _loads(starts, ends, run), None)


def _send_all(gateway: Gateway, load: Load, way: str, run: float, began: float) -> dict[str, float]:
    connections: dict[int, http.client.HTTPConnection] = {}
    choose = _chooser(gateway, way)
    arrived = {}
    for prompt in load.prompts:
        time.sleep(max(0.0, began + prompt.arrives * run - time.monotonic()))
        port = choose(prompt)
        connection = connections.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=120))
        now = time.monotonic()
        connection.request("POST", "/prompt", orjson.dumps(_body(prompt)), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        arrived[str(orjson.loads(text)["prompt_id"])] = now
    for connection in connections.values():
        connection.close()
    return arrived


def _chooser(gateway: Gateway, way: str) -> Callable[[Prompt], int]:
    if way == "round-robin on arrival":
        return lambda prompt: gateway.ports[prompt.number % GPUS]
    if way == "shortest queue on arrival":
        return lambda prompt: gateway.ports[_shortest(gateway)]
    return lambda prompt: gateway.hub


def _shortest(gateway: Gateway) -> int:
    counts = [one["running_count"] + one["pending_count"] for one in gateway.queues()]
    return counts.index(min(counts))


def _body(prompt: Prompt) -> dict[str, Any]:
    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    sampling = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "cfg": 7.0, "steps": STEPS}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
    return {
        "client_id": prompt.client,
        "prompt": {
            "1": node("CheckpointLoaderSimple", ckpt_name=NAMES[int(prompt.model[-1])]),
            "2": node("CLIPTextEncode", text=f"number {prompt.number}", clip=["1", 1]),
            "3": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "4": node("KSampler", seed=prompt.number, **sampling, **links),
            "5": node("VAEDecode", samples=["4", 0], vae=["1", 2]),
            "6": node("PreviewImage", images=["5", 0]),
        },
    }


def _left(gateway: Gateway) -> int:
    totals = gateway.status()["totals"]
    return int(totals["running"] + totals["pending"])


def _times(gateway: Gateway) -> tuple[dict[str, float], dict[str, float]]:
    """When each prompt began and ended, in seconds since 1970, as ComfyUI noted it."""
    found: list[dict[str, float]] = [{}, {}]
    for port in gateway.ports:
        for prompt_id, entry in request(port, "GET", "/history", seconds=120).json().items():
            messages = dict(entry["status"]["messages"])
            for times, event in zip(found, ("execution_start", "execution_success"), strict=True):
                times[prompt_id] = messages[event]["timestamp"] / 1000
    return found[0], found[1]


def _loads(starts: dict[str, float], ends: dict[str, float], run: float) -> int:
    """How many runs took so long that they must have loaded a model; the shortest load takes two runs."""
    return sum(ends[one] - starts[one] > 2.5 * run for one in starts)
