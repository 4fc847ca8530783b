"""Our own WebSocket to a backend: what it says about its queue and its progress, as it says it."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable
from typing import Any

import orjson
from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.logger import Logger

from comfygate.model import Holding, Progress
from comfygate.websocket import WebSocketClientFactory, WebSocketClientProtocol

LARGEST = 64 * 1024 * 1024
STATUS_LARGEST = 64 * 1024
MOST_MODELS = 256  #: names of model files that are kept, those used last
LONGEST_NAME = 200  #: characters of an id or a class name that are kept

WORKS = re.compile(
    rb"""\s*\{\s*"type"\s*:\s*"
    (?:execution_\w+|executing|executed|progress|progress_state|comfygate\.progress)
    \"""",
    re.VERBOSE,
)
"""Messages by which the thread that runs prompts shows that it does; all of ComfyUI's begin with the type."""

DELAYS = backoffPolicy(initialDelay=0.5, maxDelay=15.0, factor=2.0)

OPTIONS: dict[str, Any] = {
    "maxFramePayloadSize": LARGEST,
    "maxMessagePayloadSize": LARGEST,
    "openHandshakeTimeout": 30,
    "closeHandshakeTimeout": 2,
    # A node may hold the GIL, and with it ComfyUI's answers, for long.
    "autoPingInterval": 30,
    "autoPingTimeout": 120,
    "perMessageCompressionOffers": [],
}


class _Factory(WebSocketClientFactory):
    """Knows whom to tell."""

    noisy = False
    told: Callable[[int], None]
    progressed: Callable[[Progress | None], None]
    held: Callable[[Holding], None]
    moved: Callable[[], None]
    lost: Callable[[], None]


class _Listening(WebSocketClientProtocol):
    """Reads everything, and keeps what it says about the queue and the companion about progress."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        if isBinary or WORKS.match(payload):
            self.factory.moved()
        if isBinary or len(payload) > STATUS_LARGEST:
            return
        if b'"status"' in payload[:64]:
            remaining = queue_remaining(payload)
            if remaining is not None:
                self.factory.told(remaining)
        elif b'"comfygate.progress"' in payload[:64]:
            with contextlib.suppress(ValueError):
                self.factory.progressed(progress_of(payload))
        elif b'"comfygate.models"' in payload[:64]:
            with contextlib.suppress(ValueError):
                self.factory.held(holding_of(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N803
        self.factory.lost()


class Monitor:
    """Keeps a WebSocket to a backend until it is stopped.

    :param reactor: provides IReactorTCP and IReactorTime.
    :param address: where the backend listens.
    :param told: called with every number of prompts that wait or run there.
    :param lost: called whenever the connection is lost.
    :param progressed: called with the running prompt's progress, where there is
        a companion, and with ``None`` at its end.
    :param moved: called with every sign that prompts are being run.
    :param held: called with what is in memory, where there is a companion, when
        a prompt begins and when it ends.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: tuple[str, int],
        told: Callable[[int], None],
        lost: Callable[[], None] = lambda: None,
        progressed: Callable[[Progress | None], None] = lambda progress: None,
        moved: Callable[[], None] = lambda: None,
        held: Callable[[Holding], None] = lambda holding: None,
    ) -> None:
        self._moved = moved
        self._held = held
        self._progressed = progressed
        self._told = told
        self._lost = lost
        host, port = address
        url = f"ws://{f'[{host}]' if ':' in host else host}:{port}/ws?clientId=comfygate-{uuid.uuid4().hex}"
        factory = _Factory(url)  # type: ignore[no-untyped-call]
        factory.protocol = _Listening
        factory.setProtocolOptions(**OPTIONS)  # type: ignore[no-untyped-call]
        factory.told = self._tell
        factory.progressed = self._tell_progress
        factory.held = self._tell_held
        factory.moved = self._tell_moved
        factory.lost = self._tell_lost
        endpoint = HostnameEndpoint(reactor, host, port, timeout=5)
        self._service = ClientService(endpoint, factory, retryPolicy=DELAYS, clock=reactor)

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost."""
        self._service.startService()

    def stop(self) -> Deferred[None]:
        """Disconnect; nothing is told any more."""
        self._told, self._lost, self._progressed = lambda remaining: None, lambda: None, lambda progress: None
        self._moved, self._held = lambda: None, lambda holding: None
        stopped: Deferred[None] = self._service.stopService()
        return stopped

    def _tell(self, remaining: int) -> None:
        with self.log.failuresHandled("while telling of a backend's queue"):
            self._told(remaining)

    def _tell_progress(self, progress: Progress | None) -> None:
        with self.log.failuresHandled("while telling of a backend's progress"):
            self._progressed(progress)

    def _tell_held(self, holding: Holding) -> None:
        with self.log.failuresHandled("while telling of a backend's memory"):
            self._held(holding)

    def _tell_moved(self) -> None:
        with self.log.failuresHandled("while telling that a backend works"):
            self._moved()

    def _tell_lost(self) -> None:
        with self.log.failuresHandled("while telling of a lost connection"):
            self._lost()


def queue_remaining(message: bytes) -> int | None:
    """Read the number in a ``status`` message; ``None`` if it is another message."""
    try:
        found = orjson.loads(message)
        remaining = found["data"]["status"]["exec_info"]["queue_remaining"] if found["type"] == "status" else None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    return remaining if isinstance(remaining, int) else None


def progress_of(message: bytes) -> Progress | None:
    """Read the companion's ``comfygate.progress`` message; ``None`` where it tells of an end.

    :raises ValueError: it is something else.
    """
    try:
        data = orjson.loads(message)["data"]
        if data["ended"] is True:
            return None
        return Progress(
            prompt_id=_text(data["prompt_id"]),
            node=None if data["node"] is None else _text(data["node"]),
            node_type=None if data["node_type"] is None else _text(data["node_type"]),
            value=_number(data["value"]),
            max=_number(data["max"]),
            nodes_done=_count(data["nodes_done"]),
            nodes_total=_count(data["nodes_total"]),
        )
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise ValueError(f"this is no progress message: {error}") from None


def holding_of(message: bytes) -> Holding:
    """Read the companion's ``comfygate.models`` message.

    :raises ValueError: it is something else.
    """
    try:
        data = orjson.loads(message)["data"]
        models = [_text(name) for name in data["models"][-MOST_MODELS:]]
        return Holding(
            prompt_id=_text(data["prompt_id"]),
            models=tuple(models),
            free_memory=_count(data["free_memory"]),
            ended=data["ended"] is True,
        )
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise ValueError(f"this is no message about models: {error}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is missing")
    return value[:LONGEST_NAME]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
