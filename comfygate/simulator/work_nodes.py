"""SimulatedWork: a node that takes time as told, and breaks as told."""

from __future__ import annotations

import time

from comfygate.simulator import faults
from comfygate.simulator.nodes import Images, decimal, node, number, one_of
from comfygate.simulator.run import Run
from comfygate.simulator.sampling_nodes import scene


@node(
    "SimulatedWork",
    "simulator",
    "Simulated Work",
    output=("IMAGE",),
    required={
        "seconds": decimal(1.0, 0.0, 86400.0, 0.01),
        "steps": number(1, 1, 100_000),
        "preview": ("BOOLEAN", {"default": False}),
        "fault": (one_of(*faults.FAULTS), {"default": "none"}),
    },
    optional={
        "image": ("IMAGE", {}),
        "preview_size": number(128, 1, 8192, step=1),
        "seed": number(0, 0, 2**64 - 1, control_after_generate=True),
    },
    module="comfygate.simulator",
)
def simulated_work(
    run: Run,
    *,
    seconds: float,
    steps: int,
    preview: bool,
    fault: str,
    image: Images | None = None,
    preview_size: int = 128,
    seed: int = 0,
) -> tuple[Images]:
    """Take `seconds` in `steps`, each with progress and a preview; then, half-way, the fault.

    With `uninterruptible` the whole time passes at once, deaf to interrupts.
    """
    if fault == "uninterruptible":
        time.sleep(seconds)
        return (image or [scene(512, 512, seed)],)
    middle = (steps + 1) // 2
    for step in range(1, steps + 1):
        time.sleep(seconds / steps)
        picture = scene(preview_size, preview_size, seed, step / steps) if preview else None
        run.progress(step, steps, ("JPEG", picture) if picture else None)
        if step == middle:
            faults.strike(fault, run.machine)
    return (image or [scene(512, 512, seed)],)
