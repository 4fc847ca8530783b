"""The gate's own answers, on the wire."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from comfygate.errors import GateError
from comfygate.gate.site import Answer
from comfygate.http1 import Headers, serialise_response


def from_error(error: GateError, extra: Headers = ()) -> Answer:
    """Make the answer that tells of `error`."""
    return Answer(status=error.status, headers=(*error.headers(), *extra), body=error.body())


def broken() -> GateError:
    """Say that the gate itself failed."""
    return GateError(500, "internal_error", "ComfyGate failed on this request.", "its log says why")


def render(answer: Answer, connection: bytes, *, with_body: bool = True) -> bytes:
    """Serialise `answer`.

    :param connection: value for ``Connection``; empty for none.
    :param with_body: whether the request's method lets the answer have one.
    """
    headers = [*answer.headers, (b"Date", formatdate(usegmt=True).encode())]
    if answer.status != 204:
        headers.append((b"Content-Length", b"%d" % len(answer.body)))
    if connection:
        headers.append((b"Connection", connection))
    head = serialise_response(answer.status, HTTPStatus(answer.status).phrase.encode(), headers)
    return head + answer.body if with_body else head


def connection_option(version: tuple[int, int], keep_alive: bool) -> bytes:
    """Say what has to be said about the connection's future (RFC 9112, section 9.3)."""
    if not keep_alive:
        return b"close"
    return b"keep-alive" if version == (1, 0) else b""
