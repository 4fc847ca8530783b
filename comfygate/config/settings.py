"""The configuration: text → :class:`Config` or :class:`ConfigError`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve, field, frozen

from comfygate.config.keys import GATE, GPU, MAIN
from comfygate.config.paths import CONTROL_SOCKET, SIMULATOR, settle_paths
from comfygate.config.text import ConfigError, Section, read_file, read_sections, unknown_section
from comfygate.config.values import PolicySpec
from comfygate.model import is_gpus_own

__all__ = ["Config", "ConfigError", "GateConfig", "GpuOverrides", "PolicySpec", "load", "parse"]

LIMIT_NAMES = ("rate", "burst", "limit_by", "max_wait", "metered")
NO_FILE = "without a configuration file"
IN_ORDER = PolicySpec("least-loaded")
_SECTION = re.compile(r"comfygate|gpu:(0|[1-9][0-9]{0,5})|gate:[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@frozen(kw_only=True)
class GateConfig:
    """One listening port.

    :ivar name: ``gpu-0``, ``hub``, or the name in ``[gate:name]``.
    :ivar gpu_ids: the GPUs behind it; in :attr:`Config.gates`, () means all.
    :ivar rate: tokens per second; 0 means no limit.
    :ivar limit_by: ``port`` or ``client``.
    :ivar max_wait: seconds that a request may wait for a token.
    :ivar metered: patterns for :class:`comfygate.routes.Metering`.
    """

    name: str
    port: int
    gpu_ids: tuple[int, ...]
    policy: PolicySpec
    rate: float
    burst: int
    limit_by: str
    max_wait: float
    metered: tuple[str, ...]

    @property
    def several(self) -> bool:
        """Whether there is more than one GPU behind it."""
        return len(self.gpu_ids) > 1


@frozen(kw_only=True)
class GpuOverrides:
    """One ``[gpu:n]`` section; ``None`` where it says nothing."""

    port: int | None = None
    name: str | None = None
    arguments: tuple[str, ...] = ()
    url: str | None = None
    weight: float = 1.0
    rate: float | None = None
    burst: int | None = None
    limit_by: str | None = None
    max_wait: float | None = None
    metered: tuple[str, ...] | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of `url`."""
        parts = urlsplit(self.url or "")
        return (parts.hostname, parts.port or 80) if parts.hostname else None


@frozen(kw_only=True)
class Config:
    """All that the daemon is told.  Folders are absolute; see :mod:`comfygate.config.keys` for each key.

    :ivar filename: for messages.
    :ivar comfyui: ComfyUI's folder, or ``simulator``.
    :ivar temporary: whether `state_dir` is to be made for this run and removed
        at its end.
    :ivar given: keys that the file sets in its main section.
    """

    filename: str
    comfyui: str
    python: str
    devices: str
    interface: str
    first_port: int
    hub_port: int
    state_dir: str
    temporary: bool
    input_dir: str
    output_dir: str
    arguments: tuple[str, ...]
    policy: PolicySpec
    interrupt_policy: PolicySpec
    cors_origins: tuple[str, ...]
    rate: float
    burst: int
    limit_by: str
    max_wait: float
    metered: tuple[str, ...]
    prefetch: int
    read_ahead: str
    journal: str
    retries: int
    when_down: str
    keep_finished: int
    keep_days: float
    max_pending: int
    max_pending_bytes: int
    max_prompt: int
    max_body: int
    max_connections: int
    backend_timeout: float
    start_timeout: float
    restart_delay: float
    restart_delay_max: float
    hang_timeout: float
    stall_timeout: float
    shutdown_grace: float
    stop_grace: float
    fast_path: str
    log_size: int
    log_files: int
    given: frozenset[str]
    gpus: Mapping[int, GpuOverrides] = field(factory=dict)
    gates: tuple[GateConfig, ...] = ()

    @property
    def shown(self) -> str:
        """What people call it, in the middle of a sentence."""
        return "the configuration" if self.filename == NO_FILE else self.filename

    @property
    def simulated(self) -> bool:
        """Whether the stand-in is started instead of ComfyUI."""
        return self.comfyui == SIMULATOR

    @property
    def is_fast(self) -> bool:
        """Whether the data plane takes the shorter way through Twisted."""
        return self.fast_path == "on"

    @property
    def control_socket(self) -> str:
        """Path of the control plane's UNIX socket."""
        return os.path.join(self.state_dir, CONTROL_SOCKET)

    def staying(self, old: Config) -> Config:
        """Itself, read while the daemon runs with `old`: a temporary state_dir stays the same one."""
        if not (self.temporary and old.temporary):
            return self
        inside = {key: getattr(self, key) for key in ("state_dir", "input_dir", "output_dir")}
        return evolve(self, **{key: path.replace(self.state_dir, old.state_dir) for key, path in inside.items()})

    def mistake(self, key: str, message: object, section: str = "comfygate") -> ConfigError:
        """Say what is wrong with a value that only others can judge."""
        return ConfigError(self.filename, section, key, str(message).rstrip("."))

    def overrides(self, gpu_id: int) -> GpuOverrides:
        """What ``[gpu:n]`` says."""
        return self.gpus.get(gpu_id) or GpuOverrides()

    def gpu_ids(self, devices: int) -> tuple[int, ...]:
        """Number the GPUs: the devices, then those that have only a url.

        :param devices: how many devices the ``devices`` key stands for.
        :raises ConfigError: for a section of a GPU that there is not.
        """
        count = devices
        for gpu_id in sorted(self.gpus):
            if gpu_id < count:
                continue
            there = f"there are {count}, counted from 0" if count else "there are none"
            if self.gpus[gpu_id].url is None:
                raise self.mistake(
                    "", f"there is no GPU {gpu_id}: {there}; remove it or correct devices", f"gpu:{gpu_id}"
                )
            if gpu_id > count:
                raise self.mistake("", f"GPUs are numbered without gaps: call this one gpu:{count}", f"gpu:{gpu_id}")
            count += 1
        if not count:
            raise self.mistake("devices", "there is no GPU to serve; set devices, or url in [gpu:0]")
        return tuple(range(count))

    def gates_for(self, gpu_ids: Sequence[int]) -> tuple[GateConfig, ...]:
        """Every port: one for each GPU, the hub, and the named gates.

        :param gpu_ids: all GPUs; see :meth:`gpu_ids`.
        :raises ConfigError: for a GPU that there is not, and for a port that is
            out of range or taken twice.
        """
        every = tuple(gpu_ids)
        found = [(self._gpu_gate(gpu_id), *self._gpu_port_key(gpu_id)) for gpu_id in every]
        if self.hub_port:
            hub = GateConfig(name="hub", port=self.hub_port, gpu_ids=every, policy=self.policy, **self._limits())
            found.append((hub, "comfygate", "hub_port"))
        for gate in self.gates:
            section = f"gate:{gate.name}"
            for gpu_id in gate.gpu_ids:
                if gpu_id not in every:
                    raise self.mistake("gpus", f"there is no GPU {gpu_id}; there are 0 to {every[-1]}", section)
            found.append((evolve(gate, gpu_ids=gate.gpu_ids or every), section, "port"))
        self._check_ports(found)
        return tuple(gate for gate, _, _ in found)

    def _limits(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in LIMIT_NAMES}

    def _gpu_gate(self, gpu_id: int) -> GateConfig:
        overrides = self.overrides(gpu_id)
        own = {name: getattr(overrides, name) for name in LIMIT_NAMES if getattr(overrides, name) is not None}
        port = overrides.port or self._counted_port(gpu_id)
        return GateConfig(
            name=f"gpu-{gpu_id}", port=port, gpu_ids=(gpu_id,), policy=IN_ORDER, **{**self._limits(), **own}
        )

    def _counted_port(self, gpu_id: int) -> int:
        """The n-th port from first_port on, with hub_port passed over: eight GPUs and a hub fit the defaults."""
        port = self.first_port + gpu_id
        return port + 1 if self.first_port <= self.hub_port <= port else port

    def _gpu_port_key(self, gpu_id: int) -> tuple[str, str]:
        return (f"gpu:{gpu_id}", "port") if self.overrides(gpu_id).port else ("comfygate", "first_port")

    def _check_ports(self, gates: Iterable[tuple[GateConfig, str, str]]) -> None:
        taken: dict[int, str] = {}
        for gate, section, key in gates:
            if gate.port > 65535:
                message = f"{gate.name} would listen on {gate.port}, above 65535; choose a lower one"
                raise self.mistake(key, message, section)
            if gate.port in taken:
                message = f"port {gate.port} of {gate.name} is taken by {taken[gate.port]}; change one of them"
                raise self.mistake(key, message, section)
            taken[gate.port] = f"{gate.name} ([{section}] {key})"
        ours = {"localhost", "127.0.0.1", "::1", self.interface}
        for gpu_id, overrides in self.gpus.items():
            host, port = overrides.address or ("", 0)
            if host in ours and port in taken:
                message = f"{overrides.url} is ComfyGate's own {taken[port]}; name the ComfyUI behind this GPU"
                raise self.mistake("url", message, f"gpu:{gpu_id}")


def load(path: str | None, environ: Mapping[str, str], here: str | None = None) -> Config:
    """Read the configuration.

    :param path: the file; ``None`` for the defaults alone.
    :param here: the folder that a relative `path` starts from; the current one,
        unless it is named.
    :raises ConfigError: for any mistake.
    """
    here = here or os.getcwd()
    if path is None:
        return parse("", filename=NO_FILE, environ=environ, here=here)
    full = os.path.join(here, path)
    return parse(read_file(full, path), filename=path, environ=environ, here=os.path.dirname(full))


def parse(
    text: str,
    *,
    filename: str,
    environ: Mapping[str, str],
    here: str,
    exists: Callable[[str], bool] = os.path.exists,
) -> Config:
    """Read the configuration's text.  Whether folders exist, others check.

    :param filename: for messages.
    :param environ: variables for paths and defaults.
    :param here: absolute folder that relative paths start from.
    :param exists: looks for a ComfyUI's own Python.
    :raises ConfigError: for any mistake that the text alone shows.
    """
    sections = read_sections(text, filename)
    for name in sections:
        if not _SECTION.fullmatch(name):
            raise unknown_section(filename, name)
    main = Section(filename, "comfygate", MAIN, sections.pop("comfygate", {}))
    values = main.values()
    settle_paths(main, values, environ, here, exists)
    if values["restart_delay"] > values["restart_delay_max"]:
        raise main.mistake("restart_delay", "is longer than restart_delay_max; make that at least as long")
    config = Config(filename=filename, given=frozenset(main.text), **values)
    gpus, gates = {}, []
    for name, content in sections.items():
        kind, _, rest = name.partition(":")
        if kind == "gpu":
            gpus[int(rest)] = _gpu(Section(filename, name, GPU, content))
        else:
            gates.append(_gate(Section(filename, name, GATE, content), rest, config))
    return evolve(config, gpus=dict(sorted(gpus.items())), gates=tuple(gates))


def _gpu(section: Section) -> GpuOverrides:
    values = section.values()
    if values["url"] and values["arguments"]:
        raise section.mistake(
            "arguments", "are for a ComfyUI that ComfyGate starts, and url names another's; remove one"
        )
    return GpuOverrides(**values)


def _gate(section: Section, name: str, config: Config) -> GateConfig:
    if name == "hub" or re.fullmatch(r"gpu-\d+", name):
        key = "hub_port" if name == "hub" else f"[gpu:{name[4:]}]"
        raise section.mistake("", f"the name {name} is taken by a port that {key} sets; choose another")
    if is_gpus_own(name):
        raise section.mistake("", f"the name {name} begins as those of the GPUs' own ports; leave gpu- out")
    values = section.values()
    if values["port"] is None:
        raise section.mistake("port", "is missing; say where this gate listens")
    own = {key: value for key, value in values.items() if value is not None}
    gpu_ids = own.pop("gpus")
    inherited = {"policy": config.policy, **{key: getattr(config, key) for key in LIMIT_NAMES}}
    return GateConfig(name=name, gpu_ids=gpu_ids, **{**inherited, **own})
