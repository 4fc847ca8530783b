"""Faults that are real: the process truly stops, dies, or loses its worker."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable

from comfygate.simulator.machine import Machine


class OutOfMemoryError(RuntimeError):
    """Looks like PyTorch's."""


OutOfMemoryError.__module__ = "torch"


class WorkerLost(BaseException):
    """Passes everything that catches exceptions, and so ends the worker thread."""


def crash(machine: Machine) -> None:
    """Die of a segmentation fault, without a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(machine: Machine) -> None:
    """Exit at once with status 1."""
    os._exit(1)


def hang(machine: Machine) -> None:
    """Stop: connections are still accepted by the kernel, nothing is answered, only SIGKILL and SIGCONT help."""
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_gil(machine: Machine) -> None:
    """Keep every Python thread from running for three seconds, as some native code does."""
    ctypes.PyDLL(None).usleep(3_000_000)


def out_of_memory(machine: Machine) -> None:
    """Fail this prompt; the process goes on."""
    raise OutOfMemoryError("Allocation on device 0 would exceed allowed memory. (out of memory)")


def error(machine: Machine) -> None:
    """Fail this prompt."""
    raise RuntimeError("a simulated error")


def cuda_error(machine: Machine) -> None:
    """Fail this prompt and every later one."""
    machine.poisoned = True
    check_poison(machine)


def lose_worker(machine: Machine) -> None:
    """End the worker thread; HTTP goes on."""
    raise WorkerLost("a simulated fault")


def leave_child(machine: Machine) -> None:
    """Start a process that inherits stdout and stderr and sleeps for ten minutes."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def flood_log(machine: Machine) -> None:
    """Write a mebibyte without a newline."""
    for _ in range(16):
        machine.console.stream.write("\r" + "#" * 65535)
    machine.console.stream.flush()


FAULTS: dict[str, Callable[[Machine], None]] = {
    "none": lambda machine: None,
    "crash": crash,
    "exit": leave,
    "hang": hang,
    "hold_gil": hold_gil,
    "oom": out_of_memory,
    "error": error,
    "cuda_error": cuda_error,
    "zombie": lose_worker,
    "child": leave_child,
    "flood_log": flood_log,
    "uninterruptible": lambda machine: None,
}
"""What the input `fault` of SimulatedWork may say."""


def strike(fault: str, machine: Machine) -> None:
    """Let `fault` happen here and now."""
    FAULTS[fault](machine)


def check_poison(machine: Machine) -> None:
    """Fail where an earlier CUDA error has left the process unusable.

    :raises RuntimeError: it has.
    """
    if machine.poisoned:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
