"""Requests to one server, each bounded in time and size."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import orjson
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    ContentDecoderAgent,
    FileBodyProducer,
    GzipDecoder,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from comfygate.smoke.outcome import SilentError, UnexpectedError, UnreachableError

MAX_BODY = 64 * 2**20
PATIENCE = 30.0
"""Seconds that a request waits in all, where it is told to come back later."""


@frozen(kw_only=True)
class Upload:
    """A file in a form."""

    field: str
    name: str
    content_type: str
    content: bytes


@frozen
class Reply:
    """An answer, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body.

        :raises UnexpectedError: it is no JSON.
        """
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise UnexpectedError(f"{shown(self.body)}, which is no JSON") from None

    def object(self) -> dict[str, Any]:
        """The body, a JSON object.

        :raises UnexpectedError: it is something else.
        """
        found = self.json()
        if not isinstance(found, dict):
            raise UnexpectedError(shown(self.body))
        return found

    @property
    def complaint(self) -> str:
        """What the answer says is wrong, if it is an error of ComfyGate's or ComfyUI's."""
        try:
            error = self.object()["error"]
            return f"{error['type']}: {error['message']}"
        except (UnexpectedError, LookupError, TypeError):
            return shown(self.body)


def shown(body: bytes) -> str:
    """The beginning of a body, fit for a line of text."""
    text = " ".join("".join(c if c.isprintable() else " " for c in body[:200].decode("utf-8", "replace")).split())
    return f"{text[:80]}{'…' if len(text) > 80 or len(body) > 200 else ''}" or "nothing"


class Client:
    """Asks one server.

    :param base: such as ``http://127.0.0.1:8188``.
    :param timeout: seconds for one answer, from connecting to its last byte.
    """

    def __init__(self, reactor: Any, base: str, timeout: float) -> None:
        self.reactor = reactor
        self.base = base
        self.timeout = timeout
        self._http = ContentDecoderAgent(Agent(reactor, connectTimeout=timeout), [(b"gzip", GzipDecoder)])

    async def ask(self, method: str, path: str, **more: Any) -> Reply:
        """Make one request; come back later when told so (429), for :data:`PATIENCE` seconds at most.

        :param more: ``headers``; ``json``, or ``file`` and, beside it in the form, ``fields``.
        :raises UnexpectedError: there is no answer, or none that could be read.
        """
        waited = 0.0
        while True:
            reply = await self.ask_once(method, path, **more)
            pause = retry_after(reply)
            if reply.status != 429 or pause is None or waited + pause > PATIENCE:
                return reply
            waited += pause
            await self.pause(pause)

    async def ask_once(self, method: str, path: str, **more: Any) -> Reply:
        """Make one request.

        :raises UnexpectedError: as for :meth:`ask`.
        """
        asking: Deferred[Reply] = Deferred.fromCoroutine(self._ask(method, path, **more))
        asking.addTimeout(self.timeout, self.reactor, _late)
        try:
            return await asking
        except UnexpectedError:
            raise
        except (ConnectError, DNSLookupError) as error:
            raise UnreachableError(no_connection(error)) from None
        except ResponseFailed as error:
            raise UnexpectedError(f"no valid HTTP answer: {_reasons(error.reasons)}") from None
        except Exception as error:
            # What breaks in reading whatever a stranger sent says something about the stranger.
            raise UnexpectedError(f"no valid HTTP answer: {_plain(error)}") from None

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await deferLater(self.reactor, seconds)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        file: Upload | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Reply:
        sent, body = Headers({name: [value] for name, value in (headers or {}).items()}), None
        if file is not None:
            boundary = uuid.uuid4().hex
            sent.setRawHeaders("Content-Type", [f"multipart/form-data; boundary={boundary}"])
            body = FileBodyProducer(BytesIO(form(file, fields or {}, boundary)))
        elif json is not None:
            sent.setRawHeaders("Content-Type", ["application/json; charset=UTF-8"])
            body = FileBodyProducer(BytesIO(orjson.dumps(json)))
        url = (self.base + path).encode("ascii")
        response: IResponse = await self._http.request(method.encode("ascii"), url, sent, body)
        whole = _Whole()
        response.deliverBody(whole)
        pieces = await whole.finished
        headers = {
            name.decode("latin-1").lower(): values[0].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        return Reply(response.code, headers, b"".join(pieces))


class _Whole(Protocol):
    """Gathers an answer's body, if it is not too long."""

    def __init__(self) -> None:
        self.finished: Deferred[list[bytes]] = Deferred()
        self._pieces: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MAX_BODY:
            self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not reason.check(ResponseDone, PotentialDataLoss):
            self.finished.errback(reason)
        elif self._size > MAX_BODY:
            self.finished.errback(UnexpectedError(f"{self._size} bytes, more than anybody should send"))
        else:
            self.finished.callback(self._pieces)


def form(file: Upload, fields: Mapping[str, str], boundary: str) -> bytes:
    """Write a form with one file as multipart/form-data (RFC 7578)."""
    parts = [(f'form-data; name="{name}"', "", value.encode()) for name, value in fields.items()]
    disposition = f'form-data; name="{file.field}"; filename="{file.name}"'
    parts.append((disposition, f"Content-Type: {file.content_type}\r\n", file.content))
    written = [
        f"--{boundary}\r\nContent-Disposition: {disposition}\r\n{more}\r\n".encode() + content + b"\r\n"
        for disposition, more, content in parts
    ]
    return b"".join([*written, f"--{boundary}--\r\n".encode()])


def retry_after(reply: Reply) -> float | None:
    """The seconds after which to come back, if the answer says so in a whole number."""
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def no_connection(error: Exception) -> str:
    """Say why a server could not be reached."""
    return f"no connection: {'refused' if isinstance(error, ConnectionRefusedError) else _plain(error)}"


def _late(failure: object, seconds: float) -> Failure:
    return Failure(SilentError(f"no answer within {seconds:g} s"))


def _plain(error: BaseException | None) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".")


def _reasons(reasons: list[Failure]) -> str:
    return "; ".join(dict.fromkeys(_plain(reason.value) for reason in reasons)) or "the connection was closed"
