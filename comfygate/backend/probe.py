"""A port to listen on, and when somebody answers on it."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from comfygate.backend.client import ComfyUIClient

INTERVAL = 0.25
"""Seconds between two looks at whether a backend is ready."""

STRANGER_INTERVAL = 1.0
"""The same while someone else answers."""

LOWEST = 20000
TRIES = 50
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(taken: frozenset[int] = frozenset()) -> int:
    """Find a port of 127.0.0.1 on which nobody listens.

    It lies below the range from which the kernel takes the ports of outgoing
    connections: between now and the moment when ComfyUI listens, which may be
    minutes, one of those would get it otherwise.

    :param taken: ports that are spoken for.
    :raises OSError: if there is none.
    """
    highest = _lowest_ephemeral() - 1
    for _ in range(TRIES if highest > LOWEST + TRIES else 0):
        port = random.randint(LOWEST, highest)
        if port not in taken and _is_free(port):
            return port
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
        return int(port)


def _lowest_ephemeral() -> int:
    try:
        return int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as found:
        try:
            found.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def until_ready(client: ComfyUIClient, clock: IReactorTime, is_ours: Callable[[], bool]) -> None:
    """Return when `client` answers ``GET /prompt`` with 200; whoever awaits it sets the limit.

    :param is_ours: whether the one who answers is the one who is meant: until a
        program listens, anybody may take its port.
    """
    while True:
        if await client.ready():
            if is_ours():
                return
            await deferLater(clock, STRANGER_INTERVAL)
        else:
            await deferLater(clock, INTERVAL)
