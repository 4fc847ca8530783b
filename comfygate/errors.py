"""Errors that the gate answers by itself, in the shape of ComfyUI's own.

A :class:`GateError` is raised anywhere and rendered in one place.  Its status
says what the client should do next: 4xx, mend the request; 429 and 503, come
back after `retry_after` seconds; 502 and 504, the backend failed and the
outcome has to be looked up before the request is sent again.
"""

from __future__ import annotations

from typing import Any

import orjson


class GateError(Exception):
    """A request that the gate refuses or could not carry out.

    :param status: HTTP status code.
    :param type: machine-readable name, such as ``rate_limited``.
    :param message: one sentence for a person.
    :param details: what exactly was wrong, and the remedy.
    :param retry_after: seconds after which trying again makes sense; sent
        rounded up as ``Retry-After`` (RFC 9110, section 10.2.3).
    :param extra_info: JSON-able facts for programs.
    """

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        details: str = "",
        *,
        retry_after: float | None = None,
        extra_info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {type}: {message}")
        self.status = status
        self.type = type
        self.message = message
        self.details = details
        self.retry_after = retry_after
        self.extra_info = extra_info or {}

    def body(self) -> bytes:
        """The JSON body: ``{"error": {"type", "message", "details",
        "extra_info"}, "node_errors": {}}``, as ComfyUI answers a refused prompt.
        """
        return orjson.dumps(
            {
                "error": {
                    "type": self.type,
                    "message": self.message,
                    "details": self.details,
                    "extra_info": self.extra_info,
                },
                "node_errors": {},
            }
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Content-Type and, where the client may come back, Retry-After."""
        found = [(b"Content-Type", b"application/json; charset=utf-8")]
        if self.retry_after is not None:
            found.append((b"Retry-After", b"%d" % max(1, -int(-self.retry_after // 1))))
        return found


class JournalError(Exception):
    """The journal cannot be written or read now: what was to be accepted is not, and may be sent again later."""


class JournalVersionError(JournalError):
    """The journal was written by a newer ComfyGate; it was not touched.  The message names it and the remedy."""


class BackendError(Exception):
    """A request from the gate to a ComfyUI did not get an answer."""


class BackendUnreachable(BackendError):
    """No connection was made: nothing was sent, so sending again is safe."""


class BackendUnclear(BackendError):
    """The request may have been carried out: look the outcome up, never resend."""


class BackendUnusable(BackendUnclear):
    """An answer came, but says nothing: asking again will bring the same."""
