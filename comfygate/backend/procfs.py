"""What ``/proc`` says about a program and everything that it started (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from attrs import frozen

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")

LISTEN = "0A"

REACHED = frozenset(
    {
        "00000000",  # 0.0.0.0
        "0100007F",  # 127.0.0.1, on a little-endian machine
        "7F000001",  # the same, on a big-endian one
        "0" * 32,  # ::
        "0000000000000000FFFF00000100007F",  # ::ffff:127.0.0.1
        "00000000000000000000FFFF7F000001",
    }
)
"""Local addresses, as the kernel writes them, of sockets that get connections to 127.0.0.1."""


@frozen
class Usage:
    """What a program used so far.

    :ivar seconds: processor time, its own and that of all processes below it.
    :ivar stopped: whether it stands still, as after SIGSTOP.
    """

    seconds: float
    stopped: bool = False


@frozen
class Process:
    """One line of ``/proc/PID/stat``.

    :ivar own: seconds of processor time of its own.
    :ivar buried: that of children which ended and were waited for.
    """

    pid: int
    parent: int
    state: str
    own: float
    buried: float


def usage(guard: int, program: int) -> Usage | None:
    """What the program under `guard` used, with all that it started; ``None`` if it is gone.

    Whatever lost its parent belongs to the guard, which is its subreaper, so
    nothing is missed and nothing is lost when a child ends.
    """
    processes = {process.pid: process for process in _processes()}
    root, main = processes.get(guard), processes.get(program)
    if root is None or main is None or main.state in "ZX":
        return None
    below = [processes[pid] for pid in _below(guard, processes.values())]
    return Usage(root.buried + sum(one.own + one.buried for one in below), main.state == "T")


def below(ancestor: int) -> list[int]:
    """List the processes below `ancestor`."""
    return list(_below(ancestor, list(_processes())))


def listeners(port: int, proc: Path = PROC) -> frozenset[str]:
    """List the sockets that connections to this port of 127.0.0.1 go to, as ``/proc/PID/fd`` names them.

    :raises OSError: if the kernel does not tell.
    """
    found = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            text = (proc / table).read_text()
        except FileNotFoundError:
            if table == "net/tcp":
                raise
            continue  # no IPv6 here
        for line in text.splitlines()[1:]:
            words = line.split()
            address, _, number = words[1].rpartition(":")
            if words[3] == LISTEN and int(number, 16) == port and address in REACHED:
                found.add(f"socket:[{words[9]}]")
    return frozenset(found)


def hold_all(pids: Iterable[int], sockets: Collection[str]) -> bool:
    """Whether each of these sockets is open in at least one of these processes."""
    missing = set(sockets)
    for pid in pids:
        if not missing:
            break
        missing.difference_update(_open_files(pid))
    return not missing


def _open_files(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:
            continue


def _processes() -> Iterator[Process]:
    for name in os.listdir(PROC):
        if name.isdigit():
            process = _read(name)
            if process is not None:
                yield process


def _read(name: str) -> Process | None:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            # The name in parentheses may hold anything, also parentheses.
            words = file.read().rpartition(b")")[2].split()
        user, system, children_user, children_system = map(int, words[11:15])
        parent = int(words[1])
    except (OSError, ValueError, IndexError):
        return None
    own, buried = (user + system) / TICKS, (children_user + children_system) / TICKS
    return Process(int(name), parent, words[0].decode(), own, buried)


def _below(ancestor: int, processes: Iterable[Process]) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    waiting = [ancestor]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            waiting.append(pid)
            yield pid
