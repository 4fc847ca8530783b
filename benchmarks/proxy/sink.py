"""A server that throws bodies away in the kernel, so that uploads cost it next to nothing.

python -m benchmarks.proxy.sink PORT
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

PIECE = 1024 * 1024
ANSWER = b'{"exec_info": {"queue_remaining": 0}, "name": "a.png", "subfolder": "", "type": "input"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024) as listening:
        while True:
            stream, _ = listening.accept()
            threading.Thread(target=serve, args=(stream,), daemon=True).start()


def serve(stream: socket.socket) -> None:
    """Answer one request after the other."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received, piece = b"", bytearray(PIECE)
    with stream, contextlib.suppress(OSError):
        while True:
            while b"\r\n\r\n" not in received:
                more = stream.recv(65536)
                if not more:
                    return
                received += more
            head, _, received = received.partition(b"\r\n\r\n")
            received = swallow(stream, head.lower(), received, piece)
            stream.sendall(HEAD + ANSWER)
            if b"connection: close" in head.lower() or b"http/1.0" in head.lower():
                return


def swallow(stream: socket.socket, head: bytes, received: bytes, piece: bytearray) -> bytes:
    """Throw a request's body away; return what has come behind it."""
    if b"expect: 100-continue" in head:
        stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        return _swallow_chunks(stream, received)
    length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
    left = length - len(received)
    while left > 0:
        # Of TCP, MSG_TRUNC discards without copying.
        left -= stream.recv_into(piece, min(left, PIECE), socket.MSG_TRUNC) or _ended()
    return received[length:]


def _swallow_chunks(stream: socket.socket, received: bytes) -> bytes:
    """For proxies that pass on an upload in chunks; the end is all that is looked for."""
    while not received.endswith(b"0\r\n\r\n"):
        more = stream.recv(PIECE)
        if not more:
            _ended()
        received = received[-8:] + more
    return b""


def _ended() -> int:
    raise ConnectionResetError("the client has gone in the middle of a body")


if __name__ == "__main__":
    main()
