"""A backend for WebSockets that is never the bottleneck: raw sockets, one thread, frames made beforehand.

To ComfyGate it looks like a ComfyUI that someone else runs: it answers GET
/prompt, /queue and /history as an idle one does, accepts WebSockets on /ws, and
sends each the status first.  If a client offers permessage-deflate, it accepts
and compresses as ComfyUI's server does (aiohttp: the fastest level, one window
for the whole connection), only not in another thread.

    python -m benchmarks.proxy.emitter PORT [PORT ...]

    GET /start?kind=json|preview&rate=N&count=M&group=G

sends `count` messages, `rate` a second (0: as fast as they are taken), in turns
to all clients whose clientId begins with the group's name, and at last tells
each how many it was sent.  `size` sets the bytes of a message, `batch` how many
go to one client in a turn.  GET /state tells how many clients there are and
how much processor time this has taken.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import select
import socket
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl, urlsplit

from benchmarks.proxy import messages
from benchmarks.proxy.files import many_files

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_HEAD_MOST = 64 * 1024
_PENDING_MOST = 64 * 2**20
"""Bytes that may wait for one client; it is sent nothing more until they are fewer."""

_SEND_BUFFER = 1024 * 1024
"""So that a picture is handed over at once."""

_READ = select.EPOLLIN
_BOTH = select.EPOLLIN | select.EPOLLOUT


def deflating() -> zlib._Compress:
    """What compresses for one connection as aiohttp does."""
    return zlib.compressobj(zlib.Z_BEST_SPEED, zlib.DEFLATED, -zlib.MAX_WBITS)


class Connection:
    """One connection of a client.

    :ivar client_id: once it is a WebSocket.
    :ivar pending: what could not be sent yet.
    :ivar sent: messages of this run.
    """

    def __init__(self, sock: socket.socket, watch: Callable[[int, int], None]) -> None:
        self.sock = sock
        self.client_id: str | None = None
        self.received = bytearray()
        self.pending = bytearray()
        self.sent = 0
        self.deflate: zlib._Compress | None = None
        self._watch = watch

    def send(self, data: bytes | bytearray) -> None:
        """Send, at once if that is possible."""
        if self.pending:
            self.pending += data
            return
        try:
            taken = self.sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            return  # it is seen when it is read
        if taken < len(data):
            self.pending += memoryview(data)[taken:]
            self._watch(self.sock.fileno(), _BOTH)

    def flush(self) -> None:
        """Send what is pending."""
        try:
            del self.pending[: self.sock.send(self.pending)]
        except BlockingIOError:
            return
        except OSError:
            self.pending.clear()
        if not self.pending:
            self._watch(self.sock.fileno(), _READ)

    def say(self, opcode: int, payload: bytes | bytearray) -> None:
        """Send a message in a frame of its own."""
        bits = messages.FINAL
        if self.deflate is not None and opcode < messages.CLOSE:
            payload = self.deflate.compress(payload) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
            payload = payload.removesuffix(messages.TAIL)
            bits |= messages.COMPRESSED
        self.send(messages.head(opcode, len(payload), bits) + payload)


class Run:
    """Messages on their way to some clients.

    :param rate: messages a second; 0 for as many as are taken.
    :param count: messages in all.
    :param batch: messages to one client in one turn, sent together.
    """

    def __init__(
        self, clients: Sequence[Connection], kind: str, rate: float, count: int, size: int = 0, batch: int = 1
    ) -> None:
        self.due = time.monotonic_ns()
        self._clients = clients
        self._opcode = messages.TEXT if kind == messages.JSON else messages.BINARY
        self._kind = kind
        self._interval = round(1e9 * batch / rate) if rate else 0
        self._left = count
        self._batch = batch
        self._next = 0
        self._at = messages.stamp_at(kind)
        self._message = messages.message(kind, size or messages.SIZES[kind])
        head = messages.head(self._opcode, len(self._message))
        self._frame = bytearray(head) + self._message
        self._frame_at = slice(len(head) + self._at.start, len(head) + self._at.stop)
        for one in clients:
            one.sent = 0

    @property
    def waits(self) -> float | None:
        """Seconds until the next message is due; ``None`` for until clients take more."""
        if self._interval:
            return max(0.0, (self.due - time.monotonic_ns()) / 1e9)
        return None if all(one.pending for one in self._clients) else 0.0

    def go_on(self) -> bool:
        """Send what is due; tell whether that was all."""
        now = time.monotonic_ns()
        turns = len(self._clients)
        while self._left and turns and self.due <= now:
            self._serve(self._clients[self._next])
            self._next = (self._next + 1) % len(self._clients)
            if self._interval:
                self.due += self._interval
            else:
                turns -= 1
        if not self._left:
            for one in self._clients:
                one.say(messages.TEXT, messages.end(one.sent))
        return not self._left

    def _serve(self, client: Connection) -> None:
        if len(client.pending) > _PENDING_MOST or (client.pending and not self._interval):
            return
        count = min(self._batch, self._left)
        self._left -= count
        client.sent += count
        sent = messages.stamp(self._kind, time.monotonic_ns())
        if client.deflate is not None:
            self._message[self._at] = sent
            for _ in range(count):
                client.say(self._opcode, self._message)
            return
        self._frame[self._frame_at] = sent
        client.send(self._frame if count == 1 else self._frame * count)


class Emitter:
    """The process.

    :param ports: where it listens, on 127.0.0.1.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._listening = {}
        self._run: Run | None = None
        for port in ports:
            sock = socket.create_server(("127.0.0.1", port), backlog=1024)
            sock.setblocking(False)
            self._listening[sock.fileno()] = sock
            self._epoll.register(sock.fileno(), _READ)

    def serve(self) -> None:
        """Go on until the process is ended."""
        while True:
            wait = None if self._run is None else self._run.waits
            # An epoll waits for whole milliseconds only; select() for one of them doesn't.
            if wait != 0.0:
                select.select((self._epoll,), (), (), wait)
            for fd, events in self._epoll.poll(0):
                self._happened(fd, events)
            if self._run is not None and self._run.go_on():
                self._run = None

    def _happened(self, fd: int, events: int) -> None:
        if fd in self._listening:
            self._accept(self._listening[fd])
            return
        connection = self._connections.get(fd)
        if connection is None:
            return
        if events & select.EPOLLOUT:
            connection.flush()
        if events & ~select.EPOLLOUT:
            self._read(connection)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self._connections[sock.fileno()] = Connection(sock, self._epoll.modify)
            self._epoll.register(sock.fileno(), _READ)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.received += data
        if not data or len(connection.received) > _HEAD_MOST:
            self._drop(connection)
        elif connection.client_id is not None:
            self._read_frames(connection)
        else:
            self._read_requests(connection)

    def _drop(self, connection: Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            connection.sock.close()
            connection.pending.clear()  # nobody waits for it

    def _read_frames(self, connection: Connection) -> None:
        """Answer pings and closes; what else a client says is of no interest."""
        data = connection.received
        while len(data) >= 6:
            size, at = data[1] & 0x7F, 2
            if size >= 126:
                at = 4 if size == 126 else 10
                size = int.from_bytes(data[2:at], "big")
            if len(data) < at + 4 + size:
                return
            opcode, mask = data[0] & 0x0F, bytes(data[at : at + 4])
            payload = bytes(byte ^ mask[n % 4] for n, byte in enumerate(data[at + 4 : at + 4 + size]))
            del data[: at + 4 + size]
            if opcode == messages.PING:
                connection.say(messages.PONG, payload)
            elif opcode == messages.CLOSE:
                connection.say(messages.CLOSE, payload)
                self._drop(connection)
                return

    def _read_requests(self, connection: Connection) -> None:
        while connection.client_id is None:
            head, found, rest = bytes(connection.received).partition(b"\r\n\r\n")
            if not found:
                return
            line, *lines = head.split(b"\r\n")
            fields = {name.strip().lower(): value.strip() for name, _, value in (one.partition(b":") for one in lines)}
            size = int(fields.get(b"content-length", b"0"))
            if len(rest) < size:
                return
            del connection.received[: len(head) + 4 + size]
            self._answer(connection, line.split()[1].decode("latin-1"), fields)

    def _answer(self, connection: Connection, target: str, fields: dict[bytes, bytes]) -> None:
        path, query = urlsplit(target).path, dict(parse_qsl(urlsplit(target).query))
        if path == "/ws" and b"sec-websocket-key" in fields:
            self._upgrade(connection, query, fields)
            return
        status, answer = 200, ANSWERS.get(path, {})
        if path == "/start":
            answer = self._start(query)
        elif path == "/state":
            answer = self._state(query)
        elif path not in ANSWERS and not path.startswith("/history/"):
            status = 404
        body = json.dumps(answer).encode()
        connection.send(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, b"OK" if status == 200 else b"Not Found", len(body), body)
        )

    def _upgrade(self, connection: Connection, query: dict[str, str], fields: dict[bytes, bytes]) -> None:
        accept = base64.b64encode(hashlib.sha1(fields[b"sec-websocket-key"] + GUID).digest())
        lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
        lines.append(b"Sec-WebSocket-Accept: " + accept)
        deflate = messages.DEFLATE in fields.get(b"sec-websocket-extensions", b"")
        if deflate:
            lines.append(b"Sec-WebSocket-Extensions: " + messages.DEFLATE)
        connection.send(b"\r\n".join([*lines, b"", b""]))
        connection.client_id = query.get("clientId", "")
        if deflate:
            connection.deflate = deflating()
        connection.say(messages.TEXT, messages.status(connection.client_id))

    def _clients(self, query: dict[str, str]) -> list[Connection]:
        group = query.get("group", "")
        found = ((one, one.client_id) for one in self._connections.values() if one.client_id is not None)
        # ComfyGate listens, too; a ComfyUI would not send it what is for others.
        return [one for one, name in found if name.startswith(group) and not name.startswith("comfygate-")]

    def _start(self, query: dict[str, str]) -> dict[str, object]:
        clients = self._clients(query)
        if clients:
            self._run = Run(
                clients,
                query["kind"],
                float(query["rate"]),
                int(query["count"]),
                int(query.get("size", "0")),
                int(query.get("batch", "1")),
            )
        return {"clients": len(clients)}

    def _state(self, query: dict[str, str]) -> dict[str, object]:
        return {
            "clients": len(self._clients(query)),
            "deflating": sum(one.deflate is not None for one in self._clients(query)),
            "running": self._run is not None,
            "pending": sum(len(one.pending) for one in self._connections.values()),
            "cpu": time.process_time(),
        }


ANSWERS: dict[str, dict[str, object]] = {
    "/prompt": {"exec_info": {"queue_remaining": 0}},
    "/queue": {"queue_running": [], "queue_pending": []},
    "/history": {},
}
"""What an idle ComfyUI answers; ComfyGate asks for nothing else."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, nargs="+")
    many_files()
    emitter = Emitter(parser.parse_args().port)
    print("listening", flush=True)
    try:
        emitter.serve()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
