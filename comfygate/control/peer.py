"""Who is at the other end of a UNIX socket."""

from __future__ import annotations

import socket
import struct
from typing import Any

from twisted.web.http import Request

_UCRED = struct.Struct("3i")  # pid, uid, gid


def peer_uid(request: Request) -> int | None:
    """Whose process has made a request, unix(7); ``None`` if that cannot be told."""
    transport: Any = request.channel and request.channel.transport
    try:
        handle = transport.getHandle()
        if handle.family != socket.AF_UNIX:
            return None
        credentials = handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except (AttributeError, OSError):
        return None
    uid: int = _UCRED.unpack(credentials)[1]
    return uid
