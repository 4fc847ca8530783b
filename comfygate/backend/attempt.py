"""One try at running a ComfyUI: from its ``--help`` to its first answer, and to its end."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from comfygate.backend import commandline, procfs
from comfygate.backend.client import ComfyUIClient
from comfygate.backend.commandline import Folders, Program, StartError
from comfygate.backend.options import Options
from comfygate.backend.probe import free_port, until_ready
from comfygate.backend.process import Command, Launched, launch
from comfygate.backend.record import Events
from comfygate.errors import BackendError
from comfygate.model import Device


@frozen(kw_only=True)
class Setup:
    """How one backend is run.

    :ivar arguments: the user's own arguments for ComfyUI.
    :ivar start_timeout: seconds from the start until it has to answer.
    :ivar stop_grace: seconds between asking it to end and killing it.
    :ivar restart_delay: seconds between its death and its next start.
    :ivar restart_delay_max: seconds that those grow to, at most.
    :ivar hang_timeout: seconds without an answer and without processor time after
        which it is hung; 0: never.
    :ivar stall_timeout: seconds without an event and without processor time after
        which a running prompt stands still; 0: never.
    :ivar log_size: bytes in one file of its log.
    :ivar log_files: how many files of its log are kept.
    """

    device: Device
    program: Program
    folders: Folders
    arguments: tuple[str, ...] = ()
    start_timeout: float = 600.0
    stop_grace: float = 5.0
    restart_delay: float = 1.0
    restart_delay_max: float = 60.0
    hang_timeout: float = 90.0
    stall_timeout: float = 1800.0
    log_size: int = 10 * 1024 * 1024
    log_files: int = 3


class ComfyUIAttempt:
    """Provides :class:`comfygate.backend.lifecycle.Attempt` with a real process.

    :ivar setup: how it is run.
    :ivar client: for asking the process, from its start on.
    :ivar port: where it listens.
    :ivar companion: what its companion says of itself, once it is ready.
    """

    log = Logger()

    def __init__(self, reactor: Any, setup: Setup, options: Options, events: Events) -> None:
        self.client: ComfyUIClient | None = None
        self.port = 0
        self.companion: dict[str, Any] | None = None
        self.process: Launched | None = None
        self._reactor = reactor
        self.setup = setup
        self._options = options
        self._events = events
        self._probing: Deferred[None] | None = None
        self._ready = False
        self._over = False
        self._strangers = False
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._not_started)

    def terminate(self) -> None:
        """Ask it to end, or do not start it at all."""
        if self.process is None:
            self._starting.cancel()
        else:
            self._stop_probing()
            self.process.terminate()

    def kill(self) -> None:
        """End it now, or do not start it at all."""
        if self.process is None:
            self._starting.cancel()
        else:
            self._stop_probing()
            self.process.kill()

    async def _start(self) -> None:
        setup = self.setup
        known = await self._options.of(setup.program)
        setup.folders.prepare()
        self.port = free_port()
        arguments, unknown = commandline.arguments(known, setup.device, setup.folders, self.port, setup.arguments)
        if unknown:
            self.log.warn("this ComfyUI does not know {options}; they are left out", options=", ".join(unknown))
        command = Command(
            argv=(*setup.program.argv, *arguments),
            folder=setup.program.folder,
            environment=commandline.environment(commandline.inherited_environment(), setup.device, setup.folders),
            log_path=str(setup.folders.log.absolute()),
            log_size=setup.log_size,
            log_files=setup.log_files,
        )
        self.process = launch(self._reactor, command)
        self.process.exited.addCallback(self._exited)
        self.client = ComfyUIClient.at(self._reactor, f"http://127.0.0.1:{self.port}")
        self._probing = Deferred.fromCoroutine(self._probe(self.client))
        self._probing.addErrback(self._not_probed)

    async def _probe(self, client: ComfyUIClient) -> None:
        await until_ready(client, self._reactor, self._is_ours)
        try:
            self.companion = await client.companion()
        except BackendError as error:
            self.log.warn("the companion cannot be asked: {error}", error=error)
        if self._over:
            return  # it died as it answered
        self._probing = None
        self._ready = True
        self._events.ready()

    def _is_ours(self) -> bool:
        """Whether it is our process that listens on the port."""
        try:
            sockets = procfs.listeners(self.port)
        except OSError as error:
            self.log.warn("nobody knows who listens on port {port}: {error}", port=self.port, error=error)
            return True
        guard = self.process.guard_pid if self.process is not None else None
        ours = guard is not None and procfs.hold_all(procfs.below(guard), sockets)
        if not ours and not self._strangers:
            self._strangers = True
            self.log.warn(
                "another program listens on port {port}, which GPU {gpu} was to have; it is left alone",
                port=self.port,
                gpu=self.setup.device.gpu_id,
            )
        return ours and bool(sockets)

    def _not_started(self, failure: Any) -> None:
        if failure.check(CancelledError):
            reason = "it was stopped before it was started"
        elif failure.check(StartError, OSError):
            reason = failure.getErrorMessage()
        else:
            self.log.failure("a ComfyUI could not be started", failure)
            reason = f"an error of ours: {failure.getErrorMessage()}"
        # The machine hears of it after it has heard of the attempt.
        self._reactor.callLater(0, self._events.exited, reason)

    def _not_probed(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.log.failure("a ComfyUI cannot be watched as it starts", failure)

    def _exited(self, reason: str) -> None:
        self._over = True
        self._stop_probing()
        if self.client is not None:
            self.client.close()
        if not self._ready and self._is_taken():
            reason = f"{reason}; another program listens on its port {self.port}"
        self._events.exited(reason)

    def _is_taken(self) -> bool:
        """Whether someone listens on the port, now that nothing of ours is left."""
        try:
            return bool(procfs.listeners(self.port))
        except OSError:
            return False

    def _stop_probing(self) -> None:
        probing, self._probing = self._probing, None
        if probing is not None:
            probing.cancel()
