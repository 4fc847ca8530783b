"""What a daemon claims for itself before it starts: its folder and its ports."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import socket
from collections.abc import Sequence

from comfygate.config.settings import Config, GateConfig

BACKLOG = 1024
"""Connections that may wait to be accepted; a browser opens hundreds at once through a proxy."""

MOST_FILES = 65_536


class StateFolder:
    """state_dir, locked against a second daemon.

    :raises ConfigError: if it cannot be made or is in use.
    """

    def __init__(self, config: Config) -> None:
        self.path = config.state_dir
        self._temporary = config.temporary
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            for folder in (config.input_dir, config.output_dir):
                os.makedirs(folder, exist_ok=True)
            self._lock = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            message = f"{error.filename} cannot be made ({error.strerror}); name another folder, or give the right to"
            raise config.mistake("state_dir", message) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            message = f"{self.path} is in use by another ComfyGate; stop that one, or name another folder"
            raise config.mistake("state_dir", message) from None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(config.control_socket)

    def release(self) -> None:
        """Let the next daemon have it; a temporary folder is removed."""
        if self._temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def claim_ports(config: Config, gates: Sequence[GateConfig]) -> dict[str, socket.socket]:
    """Listen on every port.

    :return: sockets by gate name.
    :raises ConfigError: if one is taken or not ours to take; none is kept then.
    """
    claimed: dict[str, socket.socket] = {}
    try:
        for gate in gates:
            claimed[gate.name] = _listen(config, gate)
    except BaseException:
        for one in claimed.values():
            one.close()
        raise
    return claimed


def _listen(config: Config, gate: GateConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.interface else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((config.interface, gate.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        message = (
            f"{gate.name} cannot listen on {config.interface} port {gate.port} ({error.strerror}); "
            "stop what listens there, or choose another port"
        )
        raise config.mistake("interface" if error.errno in _NOT_OURS else _port_key(gate), message) from None
    return listening


# EADDRNOTAVAIL and what a name or a family that this machine lacks gives.
_NOT_OURS = frozenset({99, 97, 22})


def _port_key(gate: GateConfig) -> str:
    return "hub_port" if gate.name == "hub" else "first_port" if gate.name.startswith("gpu-") else "port"


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
