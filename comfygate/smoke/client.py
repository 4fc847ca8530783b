"""Requests to one server, each bounded in time and size."""

from __future__ import annotations

from typing import Any

import orjson
from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseFailed
from twisted.web.iweb import IResponse

from comfygate.smoke.outcome import SilentError, UnexpectedError, UnreachableError

MAX_BODY = 64 * 2**20
PATIENCE = 30.0
"""Seconds that a request waits in all, where it is told to come back later."""


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
        self._http = HTTPClient(Agent(reactor, connectTimeout=timeout))

    async def ask(self, method: str, path: str, **more: Any) -> Reply:
        """Make one request; come back later when told so (429), for :data:`PATIENCE` seconds at most.

        :param more: as treq takes them: ``headers``, ``json``, ``data``, ``files``.
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
        asking: Deferred[Reply] = Deferred.fromCoroutine(self._ask(method, path, more))
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

    async def _ask(self, method: str, path: str, more: dict[str, Any]) -> Reply:
        response: IResponse = await self._http.request(method, self.base + path, allow_redirects=False, **more)
        pieces: list[bytes] = []
        size = 0

        def collect(piece: bytes) -> None:
            nonlocal size
            size += len(piece)
            if size <= MAX_BODY:
                pieces.append(piece)

        await response.collect(collect)  # type: ignore[attr-defined]
        if size > MAX_BODY:
            raise UnexpectedError(f"{size} bytes, more than anybody should send")
        headers = {
            name.decode("latin-1").lower(): values[0].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        return Reply(response.code, headers, b"".join(pieces))


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
