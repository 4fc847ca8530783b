"""What a daemon claims for itself before it starts: its folder and its ports."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from comfygate.config.settings import Config, ConfigError, GateConfig

BACKLOG = 1024
"""Connections that may wait to be accepted; a browser opens hundreds at once through a proxy."""

MOST_FILES = 65_536

Place = tuple[str, int]
"""Where a port listens: interface and number."""


class StateFolder:
    """state_dir, locked against a second daemon.

    :raises ConfigError: if it cannot be made or is in use.
    """

    def __init__(self, config: Config) -> None:
        self.path = config.state_dir
        self._temporary = config.temporary
        with _made(config, "state_dir"):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._lock = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._claim(config)
        except ConfigError:
            self.release()
            raise

    def _claim(self, config: Config) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"{self.path} is in use by another ComfyGate; stop that one, or name another folder"
            raise config.mistake("state_dir", message) from None
        make_folders(config)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(config.control_socket)

    def release(self) -> None:
        """Let the next daemon have it; a temporary folder is removed."""
        if self._temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextlib.contextmanager
def _made(config: Config, key: str) -> Iterator[None]:
    """Blame what cannot be made on a key."""
    try:
        yield
    except OSError as error:
        remedy = "let this user write there, or name another folder"
        message = f"{error.filename} cannot be made ({error.strerror}); {remedy}"
        raise config.mistake(key, message) from None


def make_folders(config: Config) -> None:
    """Make the folders that all GPUs share.

    :raises ConfigError: if one cannot be made.
    """
    for key in ("input_dir", "output_dir"):
        with _made(config, key):
            os.makedirs(getattr(config, key), exist_ok=True)


def claim_ports(
    config: Config, gates: Sequence[GateConfig], ours: Mapping[Place, socket.socket] = MappingProxyType({})
) -> dict[str, socket.socket]:
    """Listen on every port.

    :param ours: what listens for us already; where a gate takes the place of
        another one, the socket stays, and nobody finds the port closed.
    :return: sockets by gate name.
    :raises ConfigError: if one is taken or not ours to take; none is kept then.
    """
    claimed: dict[str, socket.socket] = {}
    try:
        for gate in gates:
            same = ours.get((config.interface, gate.port))
            beside = [one for (_, port), one in ours.items() if port == gate.port]
            claimed[gate.name] = same.dup() if same else _listen(config, gate, beside)
    except BaseException:
        for one in claimed.values():
            one.close()
        raise
    return claimed


def _listen(config: Config, gate: GateConfig, beside: Sequence[socket.socket]) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.interface else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _sharing((listening, *beside) if beside else ()):
            listening.bind((config.interface, gate.port))
            listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        section, key = _port_key(config, gate)
        remedy = "stop what listens there, or choose another port"
        if error.errno == errno.EACCES:
            remedy = "choose a port from 1024 on, which anybody may take"
        elif error.errno in _NOT_OURS:
            section, key, remedy = "comfygate", "interface", "name an address of this machine"
        message = f"{gate.name} cannot listen on {config.interface} port {gate.port} ({error.strerror}); {remedy}"
        raise config.mistake(key, message, section) from None
    return listening


@contextlib.contextmanager
def _sharing(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Let these listen on one port, on overlapping addresses (socket(7), SO_REUSEPORT)."""
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


# What an address or a family that this machine lacks gives.
_NOT_OURS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL})


def _port_key(config: Config, gate: GateConfig) -> tuple[str, str]:
    """Which section and key gave a gate its port."""
    if gate.name == "hub":
        return "comfygate", "hub_port"
    gpu = re.fullmatch(r"gpu-(\d+)", gate.name)
    if gpu is None:
        return f"gate:{gate.name}", "port"
    return (f"gpu:{gpu[1]}", "port") if config.overrides(int(gpu[1])).port else ("comfygate", "first_port")


def raise_file_limit() -> int:
    """Allow as many open files as this process may have; each client takes two.

    :return: the limit now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
