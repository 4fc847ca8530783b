"""What is different in a new configuration, and what has to be done about it: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from attrs import fields, frozen

from comfygate.config.effects import EFFECTS, Effect
from comfygate.config.settings import LIMIT_NAMES, Config, GateConfig
from comfygate.config.values import PolicySpec
from comfygate.model import Device

_LONGEST = 60
"""Characters of a value that a sentence shows."""


class Planned(Protocol):
    """What is compared: see :class:`comfygate.plan.Plan`."""

    @property
    def config(self) -> Config:
        """The configuration."""

    @property
    def devices(self) -> Mapping[int, Device]:
        """Those that we run a ComfyUI on."""

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """All GPUs."""

    @property
    def gates(self) -> tuple[GateConfig, ...]:
        """All ports."""


@frozen(kw_only=True)
class Run:
    """What a backend runs with until it is started again.

    :ivar device: the variables and options that bind it to its device.
    :ivar url: the ComfyUI of someone else; then all else is ``None``.
    """

    url: str | None = None
    device: tuple[object, ...] | None = None
    comfyui: str | None = None
    python: str | None = None
    input_dir: str | None = None
    output_dir: str | None = None
    arguments: tuple[str, ...] | None = None
    log_size: int | None = None
    log_files: int | None = None

    def differences(self, other: Run) -> list[str]:
        """Names of what is different in `other`."""
        names = [one.name for one in fields(Run)]
        return ["url"] if self.url != other.url else [n for n in names if getattr(self, n) != getattr(other, n)]


def run_of(plan: Planned, gpu_id: int) -> Run:
    """What a GPU's backend is to run with."""
    config, overrides = plan.config, plan.config.overrides(gpu_id)
    if overrides.url is not None:
        return Run(url=overrides.url)
    device = plan.devices[gpu_id]
    return Run(
        device=(tuple(sorted(device.environment.items())), device.arguments),
        comfyui=config.comfyui,
        python=config.python,
        input_dir=config.input_dir,
        output_dir=config.output_dir,
        arguments=(*config.arguments, *overrides.arguments),
        log_size=config.log_size,
        log_files=config.log_files,
    )


def name_of(plan: Planned, gpu_id: int) -> str:
    """What people call a GPU."""
    overrides = plan.config.overrides(gpu_id)
    return overrides.name or overrides.url or plan.devices[gpu_id].name


@frozen(kw_only=True)
class Changes:
    """What has to be done; gates by name, GPUs by gpu_id.

    :ivar opened: gates that are to listen somewhere new.
    :ivar closed: gates that are to listen no more where they do: those that are
        gone, and those in `opened` that were elsewhere.
    :ivar exchanged: GPUs whose backend becomes another's, or ours.
    :ivar in_turn: whether a device belongs to another GPU now, so that one
        process has to end before the other starts.
    :ivar said: a sentence for each change, for people.
    """

    opened: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    restarted: tuple[int, ...] = ()
    exchanged: tuple[int, ...] = ()
    in_turn: bool = False
    said: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """What will be done, for people."""
        return list(self.said) or ["nothing changed"]


def compare(old: Planned, new: Planned, running: Mapping[int, Run] | None = None) -> Changes:
    """See what is different.

    :param running: what the backends run with, where that is not what `old` says.
    :raises ConfigError: for a key that cannot change while the daemon runs.
    """
    _check_fixed(old.config, new.config)
    places = {gate.name: (old.config.interface, gate.port) for gate in old.gates}
    opened = tuple(one.name for one in new.gates if places.get(one.name) != (new.config.interface, one.port))
    names = {gate.name for gate in new.gates}
    both = [gpu_id for gpu_id in new.gpu_ids if gpu_id in old.gpu_ids]
    runs = {gpu_id: run_of(old, gpu_id) for gpu_id in old.gpu_ids} | dict(running or {})
    different = {gpu_id: runs[gpu_id].differences(run_of(new, gpu_id)) for gpu_id in both}
    exchanged = tuple(gpu_id for gpu_id in both if "url" in different[gpu_id])
    return Changes(
        opened=opened,
        closed=tuple(name for name in places if name in opened or name not in names),
        added=tuple(gpu_id for gpu_id in new.gpu_ids if gpu_id not in old.gpu_ids),
        removed=tuple(gpu_id for gpu_id in old.gpu_ids if gpu_id not in new.gpu_ids),
        restarted=tuple(gpu_id for gpu_id in both if different[gpu_id] and gpu_id not in exchanged),
        exchanged=exchanged,
        in_turn=_is_reshuffled(old.devices, new.devices),
        said=(*_of_gates(old, new), *_of_gpus(old, new, different), *_of_daemon(old.config, new.config)),
    )


def _check_fixed(old: Config, new: Config) -> None:
    for key, effect in EFFECTS["comfygate"].items():
        before, after = getattr(old, key), getattr(new, key)
        if effect is Effect.NEVER and before != after:
            message = f"cannot change from {before} to {after} while ComfyGate runs; restart it, or take that back"
            raise new.mistake(key, message)


def _is_reshuffled(old: Mapping[int, Device], new: Mapping[int, Device]) -> bool:
    def accelerators(devices: Mapping[int, Device]) -> dict[str, int]:
        named = {one.environment.get("CUDA_VISIBLE_DEVICES", ""): gpu_id for gpu_id, one in devices.items()}
        return {name: gpu_id for name, gpu_id in named.items() if name}

    before = accelerators(old)
    return any(before.get(name, gpu_id) != gpu_id for name, gpu_id in accelerators(new).items())


# For people.


def _of_gates(old: Planned, new: Planned) -> Iterator[str]:
    before, after = ({gate.name: gate for gate in plan.gates} for plan in (old, new))
    for name, gate in before.items():
        if name not in after:
            yield f"port {gate.port} ({name}) closes"
    for name, gate in after.items():
        if name not in before:
            yield f"port {gate.port} ({name}) opens for {gpus(gate.gpu_ids)}"
    both = [(before[name], gate) for name, gate in after.items() if name in before]
    if old.config.interface != new.config.interface:
        yield f"all ports move from {old.config.interface} to {new.config.interface}"
    for one, other in both:
        if one.port != other.port:
            yield f"{one.name} moves from port {one.port} to port {other.port}"
    yield from _grouped([(f"port {other.port} ({other.name})", _values(one, other)) for one, other in both])


def _of_gpus(old: Planned, new: Planned, different: Mapping[int, Sequence[str]]) -> Iterator[str]:
    for gpu_id in old.gpu_ids:
        if gpu_id not in new.gpu_ids:
            yield f"GPU {gpu_id} is removed when what it runs has ended"
    for gpu_id in new.gpu_ids:
        if gpu_id not in old.gpu_ids:
            yield f"GPU {gpu_id} ({name_of(new, gpu_id)}) is added"
        elif "url" not in different[gpu_id] and name_of(old, gpu_id) != name_of(new, gpu_id):
            yield f"GPU {gpu_id} is called {name_of(new, gpu_id)}"
    yield from _weights(old, new)
    reasons: dict[str, list[int]] = {}
    for gpu_id, found in different.items():
        if found:
            reasons.setdefault(f"{' and '.join(found)} changed", []).append(gpu_id)
    for reason, gpu_ids in reasons.items():
        yield f"{gpus(gpu_ids)} restart{'' if len(gpu_ids) > 1 else 's'}: {reason}"


def _weights(old: Planned, new: Planned) -> Iterator[str]:
    for gpu_id in new.gpu_ids:
        before, after = (plan.config.overrides(gpu_id).weight for plan in (old, new))
        if before != after and gpu_id in old.gpu_ids:
            yield f"GPU {gpu_id}: {_change('weight', f'{before:g}', f'{after:g}')}"


def _of_daemon(old: Config, new: Config) -> Iterator[str]:
    for key, effect in EFFECTS["comfygate"].items():
        before, after = getattr(old, key), getattr(new, key)
        if effect is Effect.DAEMON and before != after:
            yield _change(key, _text(before), _text(after))


def _values(old: GateConfig, new: GateConfig) -> str:
    names = ("gpu_ids", "policy", *LIMIT_NAMES)
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in names]
    return ", ".join(
        _change({"gpu_ids": "gpus"}.get(name, name), _gate_text(name, before), _gate_text(name, after))
        for name, before, after in pairs
        if before != after
    )


def _grouped(changes: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One sentence for all that change in the same way."""
    alike: dict[str, list[str]] = {}
    for who, what in changes:
        if what:
            alike.setdefault(what, []).append(who)
    for what, names in alike.items():
        yield f"{', '.join(names)}: {what}"


def _change(name: str, before: str, after: str) -> str:
    if max(len(before), len(after)) > _LONGEST:
        return f"{name} changed"
    return f"{name} {before} → {after}"


def _gate_text(name: str, value: Any) -> str:
    return ",".join(map(str, value)) if name == "gpu_ids" else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, PolicySpec):
        given = ",".join(f"{key}={argument}" for key, argument in value.arguments.items())
        return f"{value.name}:{given}" if given else value.name
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def gpus(gpu_ids: Sequence[int]) -> str:
    """GPUs in a sentence."""
    return f"GPU{'s' if len(gpu_ids) > 1 else ''} {', '.join(map(str, gpu_ids))}"
