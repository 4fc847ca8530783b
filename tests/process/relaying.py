"""Real ends for a relay: a scripted backend, a gate in a process of its own, a raw client."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 20.0


class Program:
    """A process that prints port numbers and ends when its standard input does."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / name), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        self.log: list[bytes] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def port(self) -> int:
        """Read the next port number."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._reader.join(PATIENCE)
        assert line, b"".join(self.log).decode()
        return int(line)

    def stop(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None and self.process.stderr is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(PATIENCE)
            self.process.stdout.close()
            self.process.stderr.close()

    def memory(self) -> int:
        """Resident bytes now; from now on :meth:`peak` counts."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most resident bytes since :meth:`memory`."""
        return self._status("VmHWM")

    def _status(self, key: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith(key + ":"))) * 1024


class Gates(Program):
    """A process with any number of ports."""

    def __init__(self, way: str) -> None:
        """Relay in a `way`: "fast" or "plain"."""
        super().__init__("relay_port.py", way)

    def open(self, backend: int, *, limits: dict[str, Any] | None = None, relay: dict[str, Any] | None = None) -> int:
        """Open one more port, in front of `backend`."""
        assert self.process.stdin is not None
        order = {"backend": backend, "limits": limits or {}, "relay": relay or {}}
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        return self.port()


class Connection:
    """A socket with a buffer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self.buffer = b""

    def send(self, data: bytes | memoryview) -> None:
        self.sock.sendall(data)

    def head(self) -> bytes:
        """Read up to an empty line; empty if the connection ends first."""
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                return b""
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            data = self.sock.recv(65536)
            assert data, f"ended after {self.buffer!r}"
            self.buffer += data
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def skip(self, count: int, *, rate: float | None = None) -> None:
        """Read and forget `count` bytes, at `rate` bytes a second."""
        started, total = time.monotonic(), count
        count -= len(self.buffer)
        self.buffer = b""
        space = bytearray(1 << 18)
        while count > 0:
            got = self.sock.recv_into(space, min(count, len(space)))
            assert got, f"{count} bytes are missing"
            count -= got
            if rate is not None:
                ahead = (total - count) / rate - (time.monotonic() - started)
                if ahead > 0:
                    time.sleep(ahead)

    def rest(self) -> bytes:
        """Read up to the end, which must be a clean one."""
        while data := self.sock.recv(65536):
            self.buffer += data
        found, self.buffer = self.buffer, b""
        return found

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def gone(self) -> bool:
        """Wait until the peer closes or resets the connection."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            pass
        return True


@contextlib.contextmanager
def client(port: int) -> Iterator[Connection]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        yield Connection(sock)


Script = Callable[[Connection, bytes], bool | None]


class Backend:
    """Runs a script in a thread for each connection.

    The script gets the connection and each request's head; it returns True to
    go on with the connection.

    :ivar heads: every head that arrived.
    :ivar connections: how many there were.
    :ivar errors: what went wrong in the threads.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.connections = 0
        self.errors: list[BaseException] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._open.add(sock)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            connection = Connection(sock)
            try:
                while head := connection.head():
                    self.heads.append(head)
                    if not self.script(connection, head):
                        break
            except ConnectionError:
                pass
            except BaseException as error:
                self.errors.append(error)
        self._open.discard(sock)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not self.errors, self.errors


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for `condition`, with a deadline."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"in vain: {what}"
        time.sleep(0.01)
