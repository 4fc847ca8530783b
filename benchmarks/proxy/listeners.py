"""The receiving side of the WebSocket benchmarks: many clients in one process, which is never the bottleneck.

Raw sockets and one buffer for all.  Of a frame, only its head and the time in
its message are looked at.  A message is delivered when its last byte has been
read.  Prints one line of JSON when all clients are connected and have been sent
the status, and one for every run of the emitter, when all clients have been
told its end.  Ends when its standard input does.

    python -m benchmarks.proxy.listeners --port 8181 --clients 50 --group g
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import socket
import sys
import time
import zlib
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from benchmarks.proxy import messages
from benchmarks.proxy.files import many_files
from benchmarks.proxy.messages import BINARY, CLOSE, COMPRESSED, FINAL, PING, PONG, TEXT

_BUFFER = 1024 * 1024
_PATIENCE = 30.0
"""Seconds for one handshake."""

_TEXT, _BINARY = FINAL | TEXT, FINAL | BINARY
_PREVIEW_AT, _JSON_AT = messages.PREVIEW_AT, messages.JSON_AT
_PROGRESS = messages.PROGRESS


class LostError(Exception):
    """A connection has ended, or what came over it was no WebSocket."""


class Client:
    """One client's state between two reads.

    :ivar carry: the beginning of a frame that is too short to tell anything.
    :ivar left: bytes of the current frame that are still to come.
    :ivar first: the current frame's first byte.
    :ivar begin: the first bytes of its message.
    :ivar body: its whole message, if it is compressed.
    :ivar greeted: whether it was sent the status.
    :ivar told: how many messages the emitter has sent in this run, once it has told that.
    """

    __slots__ = ("begin", "body", "carry", "first", "greeted", "inflate", "left", "sock", "told")

    def __init__(self, sock: socket.socket, compressed: bool) -> None:
        self.sock = sock
        self.carry = b""
        self.left = 0
        self.first = 0
        self.begin = b""
        self.body = bytearray()
        self.inflate = zlib.decompressobj(-zlib.MAX_WBITS) if compressed else None
        self.told: int | None = None
        self.greeted = False


class Listeners:
    """All clients.

    :param told: called with what there is to say.
    """

    def __init__(self, told: Callable[[dict[str, Any]], None]) -> None:
        self._told = told
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._clients: dict[int, Client] = {}
        self._greeted = 0
        self._ended = 0
        self._begin()

    def add(self, sock: socket.socket, early: bytes = b"", compressed: bool = False) -> None:
        """One more client, before there are any messages.

        :param early: what came behind the answer to its handshake.
        """
        sock.setblocking(False)
        client = self._clients[sock.fileno()] = Client(sock, compressed)
        self._view[: len(early)] = early
        self._parse(client, len(early), time.monotonic_ns())

    def listen(self, until: int) -> None:
        """Go on until this file descriptor ends.

        :raises LostError: a connection has ended.
        """
        epoll = select.epoll()
        for fd in (until, *self._clients):
            epoll.register(fd, select.EPOLLIN)
        told = False
        while True:
            if not told and self._greeted == len(self._clients):
                told = True
                self._told({"clients": len(self._clients)})
            for fd, _ in epoll.poll():
                if fd != until:
                    self.read(fd)
                elif not os.read(fd, 4096):
                    return

    def read(self, fd: int) -> None:
        """Read what there is for one client.

        :raises LostError: its connection has ended.
        """
        client = self._clients[fd]
        kept = len(client.carry)
        if kept:
            self._view[:kept] = client.carry
        try:
            got = client.sock.recv_into(self._view[kept:] if kept else self._buffer)
        except BlockingIOError:
            return
        now = time.monotonic_ns()
        if not got:
            raise LostError("a WebSocket was closed")
        self._parse(client, kept + got, now)
        if self._ended == len(self._clients):
            self._report()

    def _begin(self) -> None:
        self._took = array("q")
        self._first: int | None = None
        self._last = 0
        self._cpu = time.process_time()

    def _parse(self, client: Client, size: int, now: int) -> None:
        """Read what is in the buffer's first `size` bytes."""
        buffer, at, left = self._buffer, 0, client.left
        while True:
            if left:
                if client.inflate is not None:
                    client.body += self._view[at : min(at + left, size)]
                if size - at < left:
                    client.left = left - (size - at)
                    client.carry = b""
                    return
                at += left
                self._delivered(client, now)
            have = size - at
            length = buffer[at + 1] if have >= 2 else 0
            skip = 2 if length < 126 else 4 if length == 126 else 10
            if skip > 2 and have >= skip:
                length = int.from_bytes(self._view[at + 2 : at + skip], "big")
            if have < skip + min(length, messages.PREFIX):
                client.carry = bytes(self._view[at:size])
                client.left = 0
                return
            client.first = buffer[at]
            at += skip
            client.begin = bytes(self._view[at : at + min(length, messages.PREFIX)])
            left = length
            if not left:
                self._delivered(client, now)

    def _delivered(self, client: Client, now: int) -> None:
        """The current frame has come to its end."""
        first, begin = client.first, client.begin
        if first & COMPRESSED:
            begin = _inflated(client)
            first &= ~COMPRESSED
        client.body.clear()
        if first == _BINARY:
            self._note(client, int.from_bytes(begin[_PREVIEW_AT], "big"), now)
        elif first == _TEXT:
            if begin.startswith(_PROGRESS):
                self._note(client, int(begin[_JSON_AT]), now)
            else:
                self._heard(client, begin)
        elif first == FINAL | PING:
            with suppress(BlockingIOError):
                client.sock.send(bytes((FINAL | PONG, 0x80 | len(begin), 0, 0, 0, 0)) + begin)
        elif first == FINAL | CLOSE:
            raise LostError(f"a WebSocket was closed: {begin!r}")
        elif first != FINAL | PONG:
            raise LostError(f"a frame begins with {first:#x}")

    def _note(self, client: Client, sent: int, now: int) -> None:
        self._took.append(now - sent)
        self._last = now
        if self._first is None:
            self._first = sent
            self._cpu = time.process_time()

    def _heard(self, client: Client, message: bytes) -> None:
        if message.startswith(messages.END):
            client.told = messages.sent_before(message)
            self._ended += 1
        elif b'"status"' in message and not client.greeted:
            client.greeted = True
            self._greeted += 1

    def _report(self) -> None:
        sent = sum(one.told or 0 for one in self._clients.values())
        took = sorted(self._took)
        seconds = (self._last - (self._first or 0)) / 1e9
        found = {
            "messages": len(took),
            "lost": sent - len(took),
            "p50_us": _quantile(took, 0.5) / 1000,
            "p99_us": _quantile(took, 0.99) / 1000,
            "max_us": _quantile(took, 1.0) / 1000,
            "seconds": seconds,
            "listeners_cpu": time.process_time() - self._cpu,
        }
        self._told(found)
        for one in self._clients.values():
            one.told = None
        self._ended = 0
        self._begin()


def _inflated(client: Client) -> bytes:
    if client.inflate is None:
        raise LostError("a message is compressed, which was not agreed on")
    return client.inflate.decompress(bytes(client.body) + messages.TAIL)


def _quantile(values: list[int], part: float) -> int:
    return values[min(len(values) - 1, int(len(values) * part))] if values else 0


def connect(port: int, client_id: str, deflate: bool) -> tuple[socket.socket, bytes, bool]:
    """Open one WebSocket; what came behind the answer, and whether it is compressed.

    :raises LostError: it was refused.
    """
    sock = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if deflate else ""
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /ws?clientId={client_id} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{offer}\r\n".encode()
    )
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(4096)
        if not piece:
            raise LostError(f"no answer to the handshake: {data!r}")
        data += piece
    head, _, early = data.partition(b"\r\n\r\n")
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise LostError(f"the handshake was refused: {head!r} {early!r}")
    return sock, early, messages.DEFLATE in head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--group", default="listeners", help="how every clientId begins")
    parser.add_argument("--deflate", action="store_true", help="offer permessage-deflate")
    options = parser.parse_args()
    many_files()
    clients = [connect(options.port, f"{options.group}-{n}", options.deflate) for n in range(options.clients)]
    listeners = Listeners(lambda said: print(json.dumps(said), flush=True))
    try:
        for client in clients:
            listeners.add(*client)
        listeners.listen(sys.stdin.fileno())
    except LostError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
