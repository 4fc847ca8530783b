"""POST /upload/mask over several GPUs: to the one that has the picture to which the mask belongs."""

from __future__ import annotations

import re
from typing import BinaryIO

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from comfygate.backend.fleet import Fleet
from comfygate.control.work import shielded
from comfygate.errors import BackendError, BackendUnreachable, GateError
from comfygate.files import FileName, file_of
from comfygate.gate.places import Places
from comfygate.gate.uploads import Turn, UploadRoom
from comfygate.interfaces import IBackend
from comfygate.model import BackendAnswer

SENDING = 300.0
"""Seconds that a ComfyUI has to take an upload and to answer."""

_FIELD = 64 * 1024
_HEAD = 8 * 1024
_PIECE = 1024 * 1024
_BOUNDARY = re.compile(r'boundary="?([^";]{1,70})"?', re.IGNORECASE)  # RFC 2046, section 5.1.1
_NAME = re.compile(rb'name="?original_ref"?', re.IGNORECASE)


class Masks:
    """Passes masks on.

    A mask is drawn on a picture that is there already, often a temporary one,
    which one ComfyUI alone has; its name comes in the body, behind the mask.

    :param files: where pictures lie.
    :param uploads: where uploads end.
    """

    def __init__(self, fleet: Fleet, files: Places, uploads: UploadRoom, clock: IReactorTime) -> None:
        self._fleet = fleet
        self._files = files
        self._uploads = uploads
        self._clock = clock

    async def send(self, gpu_ids: tuple[int, ...], target: str, content_type: str, content: BinaryIO) -> BackendAnswer:
        """Upload a mask.

        :param target: path and query.
        :param content: the body, from its beginning; it is closed.
        :raises GateError: 502, 503 or 504.
        """
        original = original_of(content, content_type)
        backend = self._fleet.first_ready(gpu_ids)
        owner = None if original is None else self._files.find(original, self._fleet.ready(gpu_ids))
        owner = await owner if isinstance(owner, Deferred) else owner
        backend = owner or backend
        turn = await self._turn(backend)
        # Also if its client leaves now, since ComfyUI may have it whole, and be about to write the file.
        return await shielded(Deferred.fromCoroutine(self._send(turn, backend, target, content_type, content)))

    async def _send(
        self, turn: Turn | None, backend: IBackend, target: str, content_type: str, content: BinaryIO
    ) -> BackendAnswer:
        try:
            content.seek(0)
            return await self._fleet.client(backend.gpu_id).upload(target, content_type, content, SENDING)
        except BackendUnreachable as error:
            raise GateError(502, "backend_failed", f"GPU {backend.gpu_id} was not reached", str(error)) from None
        except BackendError as error:
            message = f"GPU {backend.gpu_id} did not say whether it took the mask"
            raise GateError(504, "backend_timeout", message, str(error)) from None
        finally:
            if turn is not None:
                turn.leave()

    async def _turn(self, backend: IBackend) -> Turn | None:
        """Uploads to our ComfyUIs end one GPU after the other; see :mod:`comfygate.gate.uploads`."""
        if not backend.owned:
            return None
        turn = self._uploads.turn(backend.gpu_id)
        begun: Deferred[None] = Deferred()
        turn.ask(lambda: begun.callback(None))
        if not begun.called:
            until, overtake = turn.due()
            late = self._clock.callLater(max(0.0, until - self._clock.seconds()), overtake)
            try:
                await begun
            except BaseException:
                turn.leave()
                raise
            finally:
                if late.active():
                    late.cancel()
        return turn


def original_of(content: BinaryIO, content_type: str) -> FileName | None:
    """The picture that the field ``original_ref`` of a multipart body names (ComfyUI: server.py, ``upload_mask``)."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return None
    value = _field(content, b"--" + boundary[1].encode("latin-1", "replace"))
    try:
        named = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return file_of(named) if isinstance(named, dict) else None


def _field(content: BinaryIO, delimiter: bytes) -> bytes:
    """The value of the field `_NAME`; empty if there is none.  Only a piece of the body is in memory."""
    content.seek(0)
    window, ended = b"", False
    while True:
        start = window.find(delimiter)
        if start >= 0 and (ended or len(window) - start >= _HEAD + _FIELD):
            head, _, rest = window[start + len(delimiter) :].partition(b"\r\n\r\n")
            if len(head) <= _HEAD and _NAME.search(head):
                return rest.partition(b"\r\n" + delimiter)[0][:_FIELD]
            window = window[start + len(delimiter) :]
            continue
        if ended:
            return b""
        if start < 0:
            window = window[max(0, len(window) - len(delimiter)) :]
        piece = content.read(_PIECE)
        ended = not piece
        window += piece
