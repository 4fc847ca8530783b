"""A ComfyUI that someone else runs: watched, never started or stopped."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.backend.client import ComfyUIClient
from comfygate.backend.listeners import Listeners
from comfygate.backend.monitor import Monitor
from comfygate.backend.reports import Reports
from comfygate.errors import BackendError, BackendUnclear, BackendUnreachable
from comfygate.interfaces import IBackend, IBackendListener
from comfygate.model import BackendState, Holding, Progress, RestartCause

DOWN_INTERVAL = 2.0
"""Seconds between two looks at one that does not answer."""

READY_INTERVAL = 10.0
"""Seconds between two looks at one that does."""

READY_TIME = 30.0
"""Seconds that it may take to answer, once it has; a node may hold it up."""

FAILURES = 3
"""Looks in a row without an answer, after which it is DOWN."""


@implementer(IBackend)
class RemoteBackend:
    """One ComfyUI at a URL.

    :param reactor: the daemon's reactor.
    :param url: ``http://host:port``.
    :ivar log_path: none; its log is not ours.
    :ivar pid: none; its process is not ours.
    """

    log = Logger()

    owned = False
    restarts = 0
    restart_causes: Mapping[RestartCause, int] = MappingProxyType({})
    cause = RestartCause.EXITED
    log_path = None
    log_tail: tuple[str, ...] = ()
    pid = None

    def __init__(
        self,
        reactor: Any,
        gpu_id: int,
        url: str,
        *,
        name: str | None = None,
        down_interval: float = DOWN_INTERVAL,
        ready_interval: float = READY_INTERVAL,
        ready_time: float = READY_TIME,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url} is not of the form http://host:port")
        self.gpu_id = gpu_id
        self.device = url
        self.name = name or url
        self.state = BackendState.STOPPED
        self.has_companion = False
        self.last_error: str | None = None
        self.progress: Progress | None = None
        self._reports = Reports()
        self._reactor = reactor
        self._place = (parts.hostname, parts.port or 80)
        self._client = ComfyUIClient.at(reactor, f"http://{parts.netloc}")
        self._down_interval = down_interval
        self._ready_interval = ready_interval
        self._ready_time = ready_time
        self._listeners = Listeners()
        self._monitor: Monitor | None = None
        self._watching: Deferred[None] | None = None
        self._asleep: Deferred[None] | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, while READY."""
        return self._place if self.state is BackendState.READY else None

    @property
    def client(self) -> ComfyUIClient | None:
        """For asking it, while READY."""
        return self._client if self.state is BackendState.READY else None

    @property
    def holding(self) -> Holding | None:
        """What it has in memory, as it said last."""
        return self._reports.last

    @property
    def held_before(self) -> Mapping[str, tuple[str, ...]]:
        """What it had in memory when the last few prompts were about to run."""
        return self._reports.before

    @property
    def retry_after(self) -> float:
        """Seconds after which a client should ask again."""
        return 1.0 if self.state is BackendState.READY else self._down_interval

    def start(self) -> None:
        """Watch it."""
        if self._watching is None:
            self._enter(BackendState.STARTING)
            self._watching = Deferred.fromCoroutine(self._watch())
            self._watching.addErrback(self._watched)

    def stop(self) -> Deferred[None]:
        """Stop watching it; it goes on."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
        self._client.close()
        if self.state is not BackendState.STOPPED:
            self._enter(BackendState.STOPPED)
        return succeed(None)

    def restart(self) -> Deferred[None]:
        """Ask again whether it is there."""
        return self.stop().addCallback(lambda _: self.start())

    def condemn(self, cause: RestartCause, reason: str, evidence: Mapping[str, object]) -> None:
        """Say what it suffers from: whoever runs it has to see to that."""
        self.log.error(
            "GPU {gpu} ({url}) should be started again: {reason}",
            gpu=self.gpu_id,
            url=self.device,
            cause=cause.value,
            reason=reason,
            evidence=dict(evidence),
        )

    def subscribe(self, listener: IBackendListener) -> None:
        """Tell `listener` of every later change."""
        self._listeners.add(listener)

    async def _watch(self) -> None:
        while True:
            while not await self._client.ready():
                self._lose()
                await deferLater(self._reactor, self._down_interval)
            await self._meet()
            await self._while_ready()
            self._lose()

    async def _while_ready(self) -> None:
        """Return when it does not answer any more."""
        failures = 0
        while failures < FAILURES:
            await self._sleep(self._down_interval if failures else self._ready_interval)
            try:
                await self._client.check(self._ready_time)
                failures = 0
            except BackendUnreachable:
                return
            except BackendUnclear:
                failures += 1

    async def _sleep(self, seconds: float) -> None:
        """Wait, until the WebSocket is lost at the longest."""
        self._asleep = Deferred()
        late = self._reactor.callLater(seconds, self._wake)
        try:
            await self._asleep
        finally:
            if late.active():
                late.cancel()

    def _wake(self) -> None:
        if self._asleep is not None and not self._asleep.called:
            self._asleep.callback(None)

    async def _meet(self) -> None:
        try:
            companion = await self._client.companion()
        except BackendError:
            companion = None
        self.has_companion = "validate" in (companion or {}).get("routes", ())
        self.last_error = None
        self._enter(BackendState.READY)

    def _lose(self) -> None:
        if self.state is not BackendState.DOWN:
            self.has_companion = False
            self.last_error = f"{self.device} does not answer"
            self._enter(BackendState.DOWN)

    def _watched(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.log.failure("GPU {gpu_id} is not watched any more", failure, gpu_id=self.gpu_id)

    def _enter(self, state: BackendState) -> None:
        self.state = state
        self.log.info("GPU {gpu} ({url}) is {state}", gpu=self.gpu_id, url=self.device, state=state.value)
        self.progress = None
        self._reports.clear()
        if self._monitor is not None:
            self._monitor.stop()
            self._monitor = None
        if state is BackendState.READY:
            told = self._queue_changed, self._wake, self._progressed
            self._monitor = Monitor(self._reactor, self._place, *told, held=self._reports.hear)
            self._monitor.start()
        self._listeners.backend_changed(self)

    def _progressed(self, progress: Progress | None) -> None:
        self.progress = progress

    def _queue_changed(self, remaining: int) -> None:
        if not remaining:
            self.progress = None
        self._listeners.queue_changed(self, remaining)
