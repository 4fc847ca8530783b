"""What a configuration comes to on this machine: its devices, ports and policies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from comfygate.backend.devices import DeviceError, resolve_devices
from comfygate.config.settings import Config, GateConfig
from comfygate.config.values import PolicySpec
from comfygate.interfaces import IInterruptPolicy
from comfygate.model import Device
from comfygate.routing.assignment import GateRouting
from comfygate.routing.registry import Policies, PolicyError


@frozen(kw_only=True)
class Plan:
    """Everything that is known before anything is started.

    :ivar devices: those that we run a ComfyUI on, by gpu_id.
    :ivar gates: every port, the GPUs' first.
    :ivar routings: how each of them routes, in the same order.
    """

    config: Config
    devices: Mapping[int, Device]
    gpu_ids: tuple[int, ...]
    gates: tuple[GateConfig, ...]
    routings: tuple[GateRouting, ...]
    interrupt_policy: IInterruptPolicy

    @property
    def weights(self) -> dict[int, float]:
        """The weight of each GPU."""
        return {gpu_id: self.config.overrides(gpu_id).weight for gpu_id in self.gpu_ids}

    def succeeding(self, old: Plan) -> Plan:
        """Itself, applied while the daemon runs with `old`.

        A temporary state_dir stays the same one, and so does a policy where the
        configuration names the same as there.
        """
        specs = {gate.name: gate.policy for gate in old.gates}
        policies = {routing.name: routing.policy for routing in old.routings}
        kept = [
            evolve(routing, policy=policies[gate.name]) if specs.get(gate.name) == gate.policy else routing
            for gate, routing in zip(self.gates, self.routings, strict=True)
        ]
        same = self.config.interrupt_policy == old.config.interrupt_policy
        return evolve(
            self,
            config=self.config.staying(old.config),
            routings=tuple(kept),
            interrupt_policy=old.interrupt_policy if same else self.interrupt_policy,
        )


def make_plan(config: Config) -> Plan:
    """Look at the machine and see whether the configuration fits it.

    Nothing is changed or started.

    :raises ConfigError: for anything that is not there.
    """
    try:
        devices = () if config.devices == "none" else resolve_devices(config.devices)
    except DeviceError as error:
        raise config.mistake("devices", error) from None
    gpu_ids = config.gpu_ids(len(devices))
    gates = config.gates_for(gpu_ids)
    policies = Policies.installed()
    _check_folders(config)
    return Plan(
        config=config,
        devices={device.gpu_id: device for device in devices if config.overrides(device.gpu_id).url is None},
        gpu_ids=gpu_ids,
        gates=gates,
        routings=tuple(
            GateRouting(gate.name, gate.gpu_ids, _policy(config, policies, "routing", gate.policy, gate.name))
            for gate in gates
        ),
        interrupt_policy=_policy(config, policies, "interrupt", config.interrupt_policy, "hub"),
    )


def _policy(config: Config, policies: Policies, kind: str, spec: PolicySpec, gate: str) -> Any:
    try:
        return policies.make(kind, spec.name, spec.arguments)
    except PolicyError as error:
        named = any(gate == one.name for one in config.gates)
        key = "policy" if kind == "routing" else "interrupt_policy"
        raise config.mistake(key, error, f"gate:{gate}" if named else "comfygate") from None


def _check_folders(config: Config) -> None:
    if not config.simulated:
        if not os.path.isfile(os.path.join(config.comfyui, "main.py")):
            raise config.mistake("comfyui", f"there is no main.py in {config.comfyui}; name the folder that holds it")
        if not os.access(config.python, os.X_OK) or os.path.isdir(config.python):
            raise config.mistake("python", f"{config.python} cannot be run; name the Python that ComfyUI runs with")
    for key in ("input_dir", "output_dir"):
        folder = getattr(config, key)
        if key in config.given and not os.path.isdir(folder):
            raise config.mistake(key, f"there is no folder {folder}; make it, or name another")
    if os.path.exists(config.state_dir) and not os.path.isdir(config.state_dir):
        raise config.mistake("state_dir", f"{config.state_dir} is not a folder; name another")
