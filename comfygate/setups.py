"""The backends that a configuration wants, and how it wants them to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import evolve

from comfygate.backend.attempt import Setup
from comfygate.backend.commandline import Folders, Program
from comfygate.backend.managed import ManagedBackend
from comfygate.backend.options import Options
from comfygate.backend.remote import RemoteBackend
from comfygate.changes import name_of
from comfygate.interfaces import IBackend
from comfygate.plan import Plan


def make_backends(reactor: Any, plan: Plan, options: Options) -> list[IBackend]:
    """Make a backend for each GPU; nothing is started yet."""
    return [make_backend(reactor, plan, gpu_id, options) for gpu_id in plan.gpu_ids]


def make_backend(reactor: Any, plan: Plan, gpu_id: int, options: Options) -> IBackend:
    """Make the backend of one GPU; it is not started yet.

    :param options: shared by all backends.
    """
    overrides = plan.config.overrides(gpu_id)
    if overrides.url is not None:
        return RemoteBackend(reactor, gpu_id, overrides.url, name=overrides.name)
    return ManagedBackend(reactor, make_setup(plan, gpu_id), options)


def make_setup(plan: Plan, gpu_id: int) -> Setup:
    """How a ComfyUI of our own is run."""
    config = plan.config
    state = Path(config.state_dir)
    return Setup(
        device=evolve(plan.devices[gpu_id], name=name_of(plan, gpu_id)),
        program=Program(config.comfyui, config.python),
        folders=Folders(
            own=state / f"gpu-{gpu_id}",
            input=Path(config.input_dir),
            output=Path(config.output_dir),
            user=state / "user" if config.simulated else None,
        ),
        arguments=(*config.arguments, *config.overrides(gpu_id).arguments),
        start_timeout=config.start_timeout,
        stop_grace=config.stop_grace,
        restart_delay=config.restart_delay,
        restart_delay_max=config.restart_delay_max,
        hang_timeout=config.hang_timeout,
        stall_timeout=config.stall_timeout,
        log_size=config.log_size,
        log_files=config.log_files,
    )
