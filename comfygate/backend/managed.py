"""A ComfyUI of our own: started, looked after and stopped by this daemon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.backend.attempt import ComfyUIAttempt, Setup
from comfygate.backend.client import ComfyUIClient
from comfygate.backend.evidence import Verdict
from comfygate.backend.lifecycle import Lifecycle
from comfygate.backend.listeners import Listeners
from comfygate.backend.logtail import OURS, last_lines
from comfygate.backend.monitor import Monitor
from comfygate.backend.options import Options
from comfygate.backend.procfs import Usage, usage
from comfygate.backend.record import DEATHS, Attempt, Events, Record, delays
from comfygate.backend.reports import Reports
from comfygate.backend.watchdog import Watchdog
from comfygate.interfaces import IBackend, IBackendListener
from comfygate.model import BackendState, Holding, Progress, RestartCause

START_GUESS = 6.0
"""Seconds that a start takes, as long as none has been seen."""

NOT_SOON = 60.0
"""Seconds after which to ask again for what does not come back by itself."""


@implementer(IBackend)
class ManagedBackend:
    """One ComfyUI process and its successors.

    :param reactor: the daemon's reactor.
    :param setup: how it is run.
    :param options: shared by all backends.
    :ivar log_path: what the process printed.
    :ivar last_error: why it is not READY; after it was given up, with the last
        line of the log.
    """

    log = Logger()

    owned = True

    def __init__(self, reactor: Any, setup: Setup, options: Options) -> None:
        self.gpu_id = setup.device.gpu_id
        self._reactor = reactor
        self._setup = setup
        self._options = options
        self._listeners = Listeners()
        self.progress: Progress | None = None
        self._reports = Reports()
        self._monitor: Monitor | None = None
        self._watchdog: Watchdog | None = None
        self._begun_at = 0.0
        self._start_seconds = START_GUESS
        self._record = Record(clock=reactor, effects=self)
        self._adopt(setup)
        self._lifecycle = Lifecycle(self._record)

    @property
    def state(self) -> BackendState:
        """Where it is in its life."""
        return self._record.state

    @property
    def holding(self) -> Holding | None:
        """What it has in memory, as it said last."""
        return self._reports.last

    @property
    def held_before(self) -> Mapping[str, tuple[str, ...]]:
        """What it had in memory when the last few prompts were about to run."""
        return self._reports.before

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self._record.starts - 1)

    @property
    def restart_causes(self) -> Mapping[RestartCause, int]:
        """How often it was started again, for which cause."""
        return self._record.restarts

    @property
    def cause(self) -> RestartCause:
        """Why it went down last."""
        return self._record.cause

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, while READY."""
        attempt = self._ready_attempt
        return ("127.0.0.1", attempt.port) if attempt else None

    @property
    def client(self) -> ComfyUIClient | None:
        """For asking it, while READY."""
        attempt = self._ready_attempt
        return attempt.client if attempt else None

    @property
    def has_companion(self) -> bool:
        """Whether it answers POST /comfygate/validate."""
        attempt = self._ready_attempt
        return attempt is not None and "validate" in (attempt.companion or {}).get("routes", ())

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        attempt = self._record.attempt
        return attempt.process.pid if isinstance(attempt, ComfyUIAttempt) and attempt.process else None

    @property
    def last_error(self) -> str | None:
        """Why it is not READY, in one line."""
        reason = self._record.reason
        if reason is None or self.state is not BackendState.FAILED:
            return reason
        said = last_lines(self.log_path, 1)
        what = f"ended {DEATHS} times in a row before it was ready, the last time with: {reason}"
        if not said or said[0].startswith(OURS):
            return what
        return f"{what}; the last line of {self.log_path}: {said[0]}"

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The last lines that it printed."""
        return last_lines(self.log_path)

    @property
    def retry_after(self) -> float:
        """Seconds after which a client should ask again."""
        now: float = self._reactor.seconds()
        if self.state is BackendState.READY:
            return 1.0
        if self.state is BackendState.STARTING:
            return max(1.0, self._begun_at + self._start_seconds - now)
        if self.state is BackendState.DOWN:
            return max(1.0, self._record.retry_at - now + self._start_seconds)
        if self.state is BackendState.STOPPING and self._record.wanted:
            return 1.0 + self._start_seconds
        return NOT_SOON

    def start(self) -> None:
        """Bring it up, and keep it up."""
        self._lifecycle.start()

    def stop(self) -> Deferred[None]:
        """End it for good; fires when nothing of it is left."""
        return self._lifecycle.stop()

    def restart(self) -> Deferred[None]:
        """End it, and start it again; fires when it has been started."""
        return self._lifecycle.restart()

    def condemn(self, cause: RestartCause, reason: str, evidence: Mapping[str, object]) -> None:
        """Kill it and start it again, for a reason that is logged with its evidence; only while READY."""
        if self.state is not BackendState.READY:
            return
        said = last_lines(self.log_path, 1)
        self.log.error(
            "GPU {gpu} is killed to be started again: {reason} (process {pid}; {evidence}){said}",
            gpu=self.gpu_id,
            cause=cause.value,
            reason=reason,
            pid=self.pid,
            evidence=dict(evidence),
            last_line=said[0] if said else None,
            said=self._last_words(),
        )
        self._lifecycle.condemn(cause, f"{reason}; killed")

    def reconfigure(self, setup: Setup) -> None:
        """Live by `setup`: its limits and names hold from now on, all else from the next start on.

        :param setup: for the same GPU.
        """
        old, self._setup = self._setup, setup
        self._record.stop_grace = setup.stop_grace
        self._record.delays = delays(setup.restart_delay, setup.restart_delay_max)
        if old.device.environment == setup.device.environment:
            self.name, self.device = setup.device.name, setup.device.label
        if (old.hang_timeout, old.stall_timeout) != (setup.hang_timeout, setup.stall_timeout):
            self._watch_if_ready()

    def subscribe(self, listener: IBackendListener) -> None:
        """Tell `listener` of every later change."""
        self._listeners.add(listener)

    def attempt(self, events: Events) -> Attempt:
        """Begin to run the process (an effect of the lifecycle)."""
        self._begun_at = self._reactor.seconds()
        self._adopt(self._setup)
        return ComfyUIAttempt(self._reactor, self._setup, self._options, events)

    def changed(self) -> None:
        """Act on a new state (an effect of the lifecycle)."""
        with self.log.failuresHandled("while acting on the state of GPU {gpu_id}", gpu_id=self.gpu_id):
            if self.state is BackendState.READY:
                self._start_seconds = max(1.0, self._reactor.seconds() - self._begun_at)
            self._log_state()
            self._watch_if_ready()
        self._listeners.backend_changed(self)

    @property
    def _ready_attempt(self) -> ComfyUIAttempt | None:
        attempt = self._record.attempt if self.state is BackendState.READY else None
        return attempt if isinstance(attempt, ComfyUIAttempt) else None

    def _adopt(self, setup: Setup) -> None:
        """Live by `setup` from now on."""
        self.name = setup.device.name
        self.device = setup.device.label
        self.log_path = setup.folders.log
        self._record.start_timeout = setup.start_timeout
        self._record.stop_grace = setup.stop_grace
        self._record.delays = delays(setup.restart_delay, setup.restart_delay_max)

    def _watch_if_ready(self) -> None:
        self.progress = None
        self._reports.clear()
        if self._monitor is not None:
            self._monitor.stop()
            self._monitor = None
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        attempt = self._ready_attempt
        if attempt is not None:
            self._watch(attempt)

    def _watch(self, attempt: ComfyUIAttempt) -> None:
        assert attempt.client is not None and attempt.process is not None  # noqa: S101 - it is ready
        limits = self._setup.hang_timeout, self._setup.stall_timeout
        self._watchdog = watchdog = Watchdog(self._reactor, attempt.client, self._usage, *limits, self._condemn)
        watchdog.start()
        if not attempt.process.worker_lost.called:
            attempt.process.worker_lost.addCallback(watchdog.worker_lost)
        self._monitor = Monitor(
            self._reactor,
            ("127.0.0.1", attempt.port),
            self._queue_changed,
            progressed=self._progressed,
            moved=watchdog.worker_moved,
            held=self._reports.hear,
        )
        self._monitor.start()

    def _usage(self) -> Usage | None:
        """What the process that is READY has used."""
        attempt = self._ready_attempt
        process = attempt.process if attempt else None
        if process is None or process.guard_pid is None or process.pid is None:
            return None
        return usage(process.guard_pid, process.pid)

    def _condemn(self, verdict: Verdict) -> None:
        self.condemn(verdict.cause, verdict.reason, verdict.evidence)

    def _progressed(self, progress: Progress | None) -> None:
        self.progress = progress

    def _queue_changed(self, remaining: int) -> None:
        if not remaining:
            self.progress = None
        if self._watchdog is not None:
            self._watchdog.queue_changed(remaining)
        self._listeners.queue_changed(self, remaining)

    def _last_words(self) -> str:
        """What the process printed last, and where; empty if it printed nothing."""
        said = last_lines(self.log_path, 1)
        return f" (the last line of {self.log_path}: {said[0]})" if said else ""

    def _log_state(self) -> None:
        record, gpu = self._record, self.gpu_id
        if record.state is BackendState.READY:
            self.log.info(
                "GPU {gpu} is ready after {seconds:.1f} s: process {pid} on port {port}, {companion}",
                gpu=gpu,
                seconds=self._reactor.seconds() - self._begun_at,
                pid=self.pid,
                port=self.address[1] if self.address else None,
                companion="with the companion" if self.has_companion else "without the companion",
            )
        elif record.state is BackendState.DOWN and record.cause is not RestartCause.REQUESTED:
            delay = record.retry_at - self._reactor.seconds()
            self.log.warn(
                "GPU {gpu} went down: {reason}{said}; starting again in {delay:.1f} s",
                gpu=gpu,
                reason=record.reason,
                said=self._last_words(),
                delay=delay,
            )
        elif record.state is BackendState.FAILED:
            tail = "\n".join(f"    {line}" for line in self.log_tail)
            self.log.error(
                "GPU {gpu} is given up: it {reason}\nSee to that, then run: comfygatectl restart {gpu}{tail}",
                gpu=gpu,
                reason=self.last_error,
                tail=f"\nThe last lines of {self.log_path}:\n{tail}" if tail else "",
            )
        else:
            self.log.info("GPU {gpu} is {state}", gpu=gpu, state=record.state.value)
