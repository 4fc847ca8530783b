"""A ComfyUI's process, as the daemon sees it: through its guard (:mod:`comfygate.backend.guard`)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.interfaces import ILaunched

GUARD = Path(__file__).with_name("guard.py")

MARK = "COMFYGATE_PROCESS"
"""Environment variable by which everything that a program started is found."""

KILL_TIME = 8.0
"""Seconds that a guard is given to kill its program before it is killed itself."""

SWEEP_INTERVAL = 0.05
SWEEPS = 60
LINE_LIMIT = 64 * 1024


@frozen(kw_only=True)
class Command:
    """What to run, and where its output goes.

    :ivar argv: program and arguments.
    :ivar folder: its working directory.
    :ivar environment: all of its environment.
    :ivar log_path: newest file of its log.
    :ivar log_size: bytes in one file of the log.
    :ivar log_files: how many files of the log are kept.
    """

    argv: tuple[str, ...]
    folder: str
    log_path: str
    environment: Mapping[str, str] = field(factory=dict, repr=False)
    log_size: int = 10 * 1024 * 1024
    log_files: int = 3


@implementer(ILaunched)
class Launched(ProcessProtocol):
    """A guarded program, from its start to its end.

    :ivar exited: fires once, with the reason in words, when nothing of the
        program is left; cancelling it kills the program.
    :ivar worker_lost: fires, at most once, with what the program printed as the
        thread that runs its prompts ended of an exception.
    :ivar pid: the program's, once it runs.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, mark: str) -> None:
        self.exited: Deferred[str] = Deferred(lambda _: self.kill())
        self.worker_lost: Deferred[str] = Deferred()
        self.pid: int | None = None
        self._clock = clock
        self._mark = mark
        self._reason: str | None = None
        self._line = b""
        self._ended = False
        self._last_resort: Any = None

    @property
    def guard_pid(self) -> int | None:
        """The guard's process; all that the program started is below it."""
        pid = getattr(self.transport, "pid", None)
        return pid if isinstance(pid, int) else None

    def terminate(self) -> None:
        """Interrupt the program, as Ctrl-C would."""
        self._say(b"i")

    def kill(self) -> None:
        """Kill the program and everything that it started."""
        self._say(b"k")
        if self._last_resort is None and not self._ended:
            self._last_resort = self._clock.callLater(KILL_TIME, self._kill_guard)

    def childDataReceived(self, fd: int, data: bytes) -> None:
        """Take the guard's report (1) or complaint (2)."""
        if fd == 2:
            self.log.error("guard of process {pid}: {text}", pid=self.pid, text=data.decode(errors="replace").strip())
            return
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-LINE_LIMIT:]
        for line in lines:
            self._reported(line.decode(errors="replace"))

    def processEnded(self, reason: Failure) -> None:
        """See the guard end; what it did not do is done here."""
        self._ended = True
        if self._last_resort is not None and self._last_resort.active():
            self._last_resort.cancel()
        if self._reason is None:
            self._reason = f"its guard ended without a report ({reason.getErrorMessage()})"
            self._sweep(SWEEPS)
        else:
            self._finish()

    def _reported(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "started":
            self.pid = int(rest)
        elif word == "lost" and not self.worker_lost.called:
            self.worker_lost.callback(rest)
        elif word in ("exited", "failed"):
            self._reason = rest

    def _say(self, command: bytes) -> None:
        if not self._ended and self.transport is not None:
            self.transport.writeToChild(0, command)

    def _kill_guard(self) -> None:
        if self.transport is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")

    def _sweep(self, left: int) -> None:
        """Kill everything that carries our mark, until nothing does."""
        found = False
        for pid in marked(self._mark):
            found = True
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError as error:
                self.log.warn("process {pid} cannot be killed: {error}", pid=pid, error=error)
        if found and left:
            self._clock.callLater(SWEEP_INTERVAL, self._sweep, left - 1)
        else:
            self._finish()

    def _finish(self) -> None:
        if not self.exited.called:
            self.exited.callback(self._reason or "no reason given")


def marked(mark: str) -> Iterator[int]:
    """List the processes whose environment says ``COMFYGATE_PROCESS=mark``."""
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found = wanted in Path("/proc", name, "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if found:
                yield int(name)


def launch(reactor: IReactorProcess, command: Command) -> Launched:
    """Start `command` under a guard.

    :param reactor: provides IReactorProcess and IReactorTime.
    :raises OSError: if not even the guard can be started.
    """
    mark = uuid.uuid4().hex
    launched = Launched(reactor, mark)  # type: ignore[arg-type]
    reactor.spawnProcess(
        launched,
        sys.executable,
        _guarded(command),
        env={**command.environment, MARK: mark},
        childFDs={0: "w", 1: "r", 2: "r"},
    )
    return launched


def _guarded(command: Command) -> Sequence[str]:
    log = (command.log_path, str(command.log_size), str(command.log_files))
    return [sys.executable, "-S", "-E", str(GUARD), *log, command.folder, "--", *command.argv]
