"""Requests to the daemon over its control socket."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import orjson

from comfygate.ctl.errors import AbsentError, CtlError, RefusedError
from comfygate.ctl.words import plain

OPERATOR = "/comfygate/operator/"

MAX_BODY = 512 * 2**20
MAX_LINE = 64 * 2**20

STREAM_SILENCE = 60.0
"""Seconds that an answer that goes on may be silent: the daemon says something every 15."""

WORK = 60.0
"""Seconds that the daemon may take to do something: a ComfyUI may have to be asked, or a disk."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("comfygate", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Asks one daemon, on a connection for each request.

    :param path: of the control socket.
    :param timeout: seconds that the daemon may be silent.
    :param explain: makes an error of a connection that failed.
    """

    def __init__(self, path: str, timeout: float, explain: Callable[[str, OSError], AbsentError]) -> None:
        self.path = path
        self._timeout = timeout
        self._explain = explain

    def get(self, target: str, **query: Any) -> Any:
        """Ask for JSON.

        :param target: a path, or the end of one of the operator's.
        :param query: what is not ``None``.
        :raises CtlError: if there is no daemon, or it refuses.
        """
        with self._answer("GET", _target(target, query), None, self._timeout) as answer:
            return _json(_whole(answer))

    def post(self, target: str, fields: dict[str, Any]) -> Any:
        """Have something done; as :meth:`get`."""
        with self._answer("POST", _target(target), fields, max(self._timeout, WORK)) as answer:
            return _json(_whole(answer))

    def lines(
        self, method: str, target: str, fields: dict[str, Any] | None = None, **query: Any
    ) -> Iterator[dict[str, Any]]:
        """The objects of an answer that has one in each line, as they come."""
        with self._answer(method, _target(target, query), fields, max(self._timeout, STREAM_SILENCE)) as answer:
            for line in _lines(answer):
                if line.strip():
                    yield _object(line)

    def statuses(self) -> Iterator[dict[str, Any]]:
        """The status, now and whenever it has changed."""
        with self._answer("GET", "/comfygate/events", None, max(self._timeout, STREAM_SILENCE)) as answer:
            for line in _lines(answer):
                if line.startswith(b"data: "):
                    yield _object(line[6:])

    @contextmanager
    def _answer(
        self, method: str, target: str, fields: dict[str, Any] | None, timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(self.path, timeout)
        try:
            try:
                connection.connect()
            except BlockingIOError:  # more wait to be accepted than may
                raise RefusedError(f"the ComfyGate at {self.path} takes no connection; it may hang") from None
            except OSError as error:
                raise self._explain(self.path, error) from None
            connection.request(method, target, None if fields is None else orjson.dumps(fields))
            answer = connection.getresponse()
            if answer.status >= 400:
                raise _refusal(answer.status, _whole(answer))
            yield answer
        except TimeoutError:
            raise RefusedError(f"the ComfyGate at {self.path} has said nothing for {timeout:g} s") from None
        except (http.client.HTTPException, ConnectionError) as error:
            reason = plain(error) or type(error).__name__
            raise RefusedError(f"the ComfyGate at {self.path} broke the connection off ({reason})") from None
        finally:
            connection.close()


def _target(target: str, query: dict[str, Any] | None = None) -> str:
    path = target if target.startswith("/") else OPERATOR + target
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _whole(answer: http.client.HTTPResponse) -> bytes:
    body = answer.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise RefusedError("the answer is larger than anybody can use")
    if answer.length:  # http.client tells only where it was asked for all
        raise http.client.IncompleteRead(body, answer.length)
    return body


def _lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while line := answer.readline(MAX_LINE):
        if not line.endswith(b"\n") and len(line) >= MAX_LINE:
            raise RefusedError("a line of the answer is larger than anybody can use")
        yield line


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RefusedError("what came is no JSON: that is not ComfyGate, or another version of it") from None


def _object(body: bytes) -> dict[str, Any]:
    found = _json(body)
    if not isinstance(found, dict):
        raise RefusedError("what came is no JSON object: that is not ComfyGate, or another version of it")
    return found


def _refusal(status: int, body: bytes) -> CtlError:
    try:
        return RefusedError(in_words(orjson.loads(body)["error"]))
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return RefusedError(
            f"the answer was {status}: {plain(body[:200].decode(errors='replace')) or 'without a word'}"
        )


def in_words(error: Any) -> str:
    """An error of ComfyGate's as a sentence, with its details in another."""
    message, details = plain(error["message"]), plain(error.get("details"))
    joint = ": " if details[:1].islower() else ". "
    return f"{message.rstrip('.')}{joint}{details}".rstrip(" .:")
