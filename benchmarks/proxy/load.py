"""Load that costs less than what it is put on: wrk for small requests, bodies that never enter user space.

Every function raises :class:`~benchmarks.proxy.scenario.MeasuringError` if answers are
missing or are not 200.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import frozen

from benchmarks.proxy.scenario import MeasuringError
from benchmarks.proxy.servers import program

PIECE = 1024 * 1024
PATIENCE = 60
"""Seconds."""

FEW = 0.001
"""Part of the requests that may end without an answer, such as on connections that were just being closed."""

BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
    "Accept-Language": "de,en-US;q=0.7,en;q=0.3",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Comfy-User": "default",
    "Sec-Fetch-Dest": "image",
    "Sec-Fetch-Mode": "no-cors",
    "Sec-Fetch-Site": "same-origin",
    "Priority": "u=5, i",
    "Cache-Control": "no-cache",
}
"""What a browser sends along, besides Host, Connection and Referer."""

DONE = """
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, "refused": %d, "lost": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""


@frozen
class Small:
    """What many small requests took.

    :ivar requests: that were answered.
    :ivar seconds: that it lasted.
    :ivar p50: of the latencies, in ms; and so on.
    """

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def small(
    port: int,
    target: str,
    folder: Path,
    *,
    connections: int,
    seconds: float,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    different: int | None = None,
) -> Small:
    """Send requests one after the other on each of some kept-alive connections.

    :param target: a path; ``%d`` in it counts up, so that no two requests are the same.
    :param different: how many there are of these, if their number is limited.
    :param folder: for the script.
    :param body: makes it a POST.
    """
    script = folder / "requests.lua"
    script.write_text(lua(target, body, headers or {}, different) + DONE)
    first = target.replace("%d", "00000")
    command = [program("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s"]
    said = subprocess.run(
        [*command, "-s", str(script), f"http://127.0.0.1:{port}{first}"],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    return read(said.stdout + said.stderr)


def lua(target: str, body: bytes | None, headers: dict[str, str], different: int | None = None) -> str:
    """A script for wrk that makes these requests."""
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    if body is not None:
        text = "".join(f"\\{byte:03}" for byte in body)
        lines += ['wrk.method = "POST"', f'wrk.body = "{text}"']
    if "%d" in target:
        before, after = (json.dumps(part) for part in target.split("%d"))
        again = "" if different is None else f" % {different}"
        lines += ["local count = 0", "request = function()", f"  count = (count + 1){again}"]
        lines += [f"  return wrk.format(nil, {before} .. string.format('%05d', count) .. {after})", "end"]
    return "\n".join(lines) + "\n"


def read(said: str) -> Small:
    """Read what wrk and its script printed.

    :raises MeasuringError: answers are missing, or are not 2xx.
    """
    line = next((line for line in said.splitlines() if line.startswith("{")), None)
    if line is None:
        raise MeasuringError(f"wrk said: {said.strip()[-500:]}")
    told = json.loads(line)
    if not told["requests"] or told["refused"] or told["lost"] > FEW * told["requests"]:
        raise MeasuringError(f"{told['refused']} of {told['requests']} were refused, {told['lost']} lost")
    return Small(told["requests"], told["seconds"], told["p50"], told["p99"])


class Reader:
    """One kept-alive connection that makes requests and throws bodies away in the kernel.

    :param receive_buffer: bytes that the kernel holds for it at most.
    :ivar length: bytes of the last answer's body.
    """

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.stream = socket.socket()
        if receive_buffer:
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        for which in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # the kernel's, so that the socket stays blocking
            self.stream.setsockopt(socket.SOL_SOCKET, which, struct.pack("ll", PATIENCE, 0))
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream.connect(("127.0.0.1", port))
        self._host = f"127.0.0.1:{port}"
        self._piece = bytearray(PIECE)
        self._received = b""
        self.length = 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def ask(self, method: str, target: str, headers: dict[str, str] | None = None) -> None:
        """Send a head."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.stream.sendall("\r\n".join([*lines, "", ""]).encode())

    def head(self) -> int:
        """Read an answer's head; return how many bytes of its body are still to come, and keep its `length`."""
        while b"\r\n\r\n" not in self._received:
            more = self.stream.recv(65536)
            if not more:
                raise MeasuringError("the connection was closed instead of an answer")
            self._received += more
        head, _, rest = self._received.partition(b"\r\n\r\n")
        status, lower = head.split(b" ", 2)[1], head.lower()
        if status != b"200":
            raise MeasuringError(f"answered with {head[:200]!r}")
        if b"content-length:" not in lower:
            raise MeasuringError(f"the answer has no length: {head[:300]!r}")
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n")[0])
        self._received = rest[length:]
        self.length = length
        return max(0, length - len(rest))

    def skip(self, left: int) -> None:
        """Throw so much of a body away."""
        while left > 0:
            left -= self.discard(left)

    def discard(self, most: int) -> int:
        """Throw away what is there, `most` bytes at most; wait if there is nothing."""
        # Of TCP, MSG_TRUNC discards without copying.
        got = self.stream.recv_into(self._piece, min(most, PIECE), socket.MSG_TRUNC)
        if not got:
            raise MeasuringError("the connection was closed in the middle of a body")
        return got

    def get(self, target: str, headers: dict[str, str] | None = None) -> int:
        """Make a GET and throw the answer away; return how long it was."""
        self.ask("GET", target, headers)
        self.skip(self.head())
        return self.length


@frozen
class Large:
    """What bodies took.

    :ivar size: bytes of them, without heads.
    :ivar seconds: that it lasted.
    """

    size: int
    seconds: float

    @property
    def rate(self) -> float:
        """MB/s."""
        return self.size / self.seconds / 1e6


def download(port: int, target: str, *, at_once: int, seconds: float) -> Large:
    """Fetch a file again and again, on so many kept-alive connections; what has begun is fetched to its end."""

    def fetch(until: float) -> int:
        got = 0
        with Reader(port) as reader:
            while not got or time.monotonic() < until:
                got += reader.get(target)
        return got

    return together(fetch, at_once, seconds)


def upload(port: int, target: str, source: Path, *, at_once: int, seconds: float) -> Large:
    """Send a file again and again, on so many kept-alive connections."""
    size = source.stat().st_size
    headers = {"Content-Type": "multipart/form-data; boundary=edge", "Content-Length": str(size)}

    def send(until: float) -> int:
        sent = 0
        with Reader(port) as reader, source.open("rb") as file:
            while not sent or time.monotonic() < until:
                reader.ask("POST", target, headers)
                at = 0
                while at < size:
                    at += os.sendfile(reader.stream.fileno(), file.fileno(), at, PIECE)
                reader.skip(reader.head())
                sent += size
        return sent

    return together(send, at_once, seconds)


def together(work: Callable[[float], int], at_once: int, seconds: float) -> Large:
    """Do it in threads.

    :param work: given until when to go on, returns how many bytes it moved.
    """
    with ThreadPoolExecutor(at_once) as threads:
        began = time.monotonic()
        futures = [threads.submit(work, began + seconds) for _ in range(at_once)]
        return Large(sum(future.result() for future in futures), time.monotonic() - began)
