"""What both ends of a bridged WebSocket have in common.

Autobahn does the framing (RFC 6455).  What is added here is what it lacks: a
deadline for every close, sizes and times that have limits, and less work for
each message.  Neither leg ever negotiates an extension: ComfyUI's server would
accept permessage-deflate and then spend fifty times the CPU on each preview.
"""

# Autobahn chose these names.
# ruff: noqa: N802, N803

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from txaio.tx import make_logger

GOING_AWAY, NO_STATUS, ABNORMAL, SERVICE_RESTART = 1001, 1005, 1006, 1012
_DONE = Failure(ConnectionDone())

_SPENT = frozenset(
    {
        "http_headers",
        "http_response_data",
        "http_request_data",
        "http_request_uri",
        "http_request_path",
        "http_request_params",
        "http_request_host",
        "http_status_line",
        "websocket_key",
        "websocket_protocols",
        "websocket_extensions",
        "websocket_origin",
        "websocket_extensions_in_use",
        "perMessageCompressionOffers",
        "_wskey",
        "_maybe_accept",
        "_valid_events",
        "_results",
        "_transport_details",
        "is_open",
        "send_queue",
    }
)
"""What an Autobahn protocol needs for its handshake only, or never."""

_SHARED = frozenset({"trafficStats", "utf8validator"})
"""What one of serves for all: numbers that nobody reads, and a check of what nobody checks."""


@frozen(kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds.

    :ivar client_message: largest message from a client; ComfyUI's own limit.
    :ivar backend_message: largest message from a backend.
    :ivar ping_interval: between pings on each leg; at least 1, because
        Autobahn's timers count whole seconds.
    :ivar client_pong: what a client may take to answer a ping.
    :ivar backend_pong: the same for a backend, where a node that holds the GIL
        delays everything.
    :ivar open: what a backend may take to open its leg.
    :ivar backend_close: what a backend may take to close its leg.
    :ivar client_close: what a client may take to close its leg.
    :ivar outbox: bytes that may wait for a client that reads slowly.
    :ivar results: bytes of binary results that may wait besides.
    :ivar held: bytes from a client that may wait for its backend leg; with
        more, it is closed.
    :ivar clients: open client legs of one gate.
    """

    client_message: int = 4 * 1024 * 1024
    backend_message: int = 64 * 1024 * 1024
    ping_interval: float = 20.0
    client_pong: float = 20.0
    backend_pong: float = 120.0
    open: float = 10.0
    backend_close: float = 3.0
    client_close: float = 5.0
    outbox: int = 4 * 1024 * 1024
    results: int = 64 * 1024 * 1024
    held: int = 256 * 1024
    clients: int = 1000


@frozen
class Ending:
    """Why a leg ended, as RFC 6455, section 7.4 numbers it.

    :ivar code: as sent by the peer; 1005 for a close frame without a code,
        1006 for a connection that was lost without one.
    :ivar reason: as sent by the peer.
    """

    code: int = NO_STATUS
    reason: str = ""

    @property
    def payload(self) -> tuple[int | None, bytes | None]:
        """Code and reason for a close frame that passes this on."""
        if self.code == NO_STATUS:
            return None, None
        code = GOING_AWAY if self.code == ABNORMAL else self.code
        return code, self.reason.encode()[:123] if self.code != ABNORMAL else b""


class Leg:
    """What both legs do: be silent about extensions, and end in time.

    Mixed into an Autobahn protocol.
    """

    # Autobahn has a line for each refusal; what is worth one, the owner says.
    log = make_logger(level="error")  # type: ignore[no-untyped-call]

    clock: IReactorTime
    close_timeout: float
    transport: Any
    message_data: Any
    _deadline: IDelayedCall | None = None
    _gone = False

    is_open: Any = None

    def settle(self) -> None:
        """The handshake is done: let go of what only that took.

        Autobahn keeps some 90 attributes for each connection, which are 8 kB.
        Most are the same for all, and so the class may have them.
        """
        kind, kept = type(self), {}
        for name, value in vars(self).items():
            if name in _SHARED and name not in vars(kind):
                setattr(kind, name, value)
            if name in _SPENT or name in _SHARED:
                continue
            if value is None or isinstance(value, bool):
                if name not in vars(kind):
                    setattr(kind, name, value)
                if vars(kind)[name] is value:
                    continue
            kept[name] = value
        self.__dict__ = kept

    def end(self, ending: Ending) -> None:
        """Close the leg: politely if it is open, and in any case in time."""
        code, reason = ending.payload
        if self.state == self.STATE_OPEN:  # type: ignore[attr-defined]
            # sendClose() refuses 1001, 1011 and 1012.
            self.sendCloseFrame(code=code, reasonUtf8=reason)
        elif not self._gone:
            self.dropConnection(abort=False)
        self.abort_in_time()

    def abort(self) -> None:
        """Drop the connection and whatever is still to be written."""
        if not self._gone and self.transport is not None:
            self.transport.abortConnection()

    def send(self, payload: bytes, binary: bool) -> None:
        """Send one message if the leg is open.

        Not by ``sendMessage()``, which holds outgoing messages to the limit
        set for incoming ones.
        """
        if self.state == self.STATE_OPEN:  # type: ignore[attr-defined]
            self.sendFrame(opcode=2 if binary else 1, payload=payload)  # type: ignore[attr-defined]

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        """Answer the peer's close frame, then see that the connection goes."""
        self.abort_in_time()
        result: bool | None = super().onCloseFrame(code, reasonRaw)  # type: ignore[misc]
        return result

    def sendCloseFrame(self, *args: Any, **kwargs: Any) -> None:
        """Send a close frame, then see that the connection goes."""
        self.abort_in_time()
        super().sendCloseFrame(*args, **kwargs)  # type: ignore[misc]

    def dropConnection(self, abort: bool = False) -> None:
        """Drop the connection once all is written, or in any case in time."""
        self.abort_in_time()
        super().dropConnection(abort)  # type: ignore[misc]

    def connectionLost(self, reason: Failure = _DONE) -> None:
        """Cancel what is pending, then report the end once."""
        if self._gone:
            return
        self._gone = True
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        super().connectionLost(reason)  # type: ignore[misc]

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write, without the log line that Autobahn composes each time."""
        self.transport.write(data)

    def onMessageEnd(self) -> None:
        """Hand a whole message on, without Autobahn's signal for each."""
        if not self.failedByMe:  # type: ignore[attr-defined]
            self.onMessage(b"".join(self.message_data), self.message_is_binary)  # type: ignore[attr-defined]
        self.message_data = None

    def abort_in_time(self) -> None:
        """Abort the connection if it is not gone after `close_timeout`."""
        if self._deadline is None and not self._gone:
            self._deadline = self.clock.callLater(self.close_timeout, self.abort)


class _Fired:
    """In the place of a Deferred that nobody listens to."""

    def callback(self, result: object) -> None:
        """Do nothing."""


Leg.is_open = _Fired()


def configured(leg: type[Any], factory: Any) -> type[Any]:
    """The kind of legs of a factory: its settings, which Autobahn copies into each connection, are the class's."""
    settings = {name: getattr(factory, name) for name in leg.CONFIG_ATTRS if not hasattr(leg, name)}
    shared = {name: staticmethod(value) if callable(value) else value for name, value in settings.items()}
    return type(leg.__name__, (leg,), {**shared, "CONFIG_ATTRS": (), "__doc__": leg.__doc__})


def ending_of(clean: bool, code: int | None, reason: str | None) -> Ending:
    """How a leg ended, from what Autobahn says about it."""
    if not clean:
        return Ending(ABNORMAL)
    return Ending(NO_STATUS if code is None else code, reason or "")


def common_options(limits: Limits) -> dict[str, Any]:
    """Settings of both legs; where Autobahn has no limit, one."""
    return {
        "failByDrop": False,
        "closeHandshakeTimeout": 0,  # the legs have a deadline of their own
        "autoPingInterval": limits.ping_interval,
        # Text is passed on as it came; whoever it is for finds it invalid.
        "utf8validateIncoming": False,
    }
