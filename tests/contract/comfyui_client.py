"""A small HTTP and WebSocket client, so that what is tested is not hidden behind a library."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import struct
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

LIMIT = 20.0
"""Seconds that any one wait may take."""


@dataclass(frozen=True)
class Answer:
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Target:
    """Something that must behave like a ComfyUI.

    :ivar gpu_id: what a gate adds to some answers; None for a ComfyUI itself.
    :ivar merges: whether it stands for several, and shows nobody's client_id.
    """

    name: str
    base_url: str
    gpu_id: int | None = None
    merges: bool = False

    @property
    def is_gate(self) -> bool:
        return self.gpu_id is not None

    @property
    def ws_url(self) -> str:
        return self.base_url.replace("http", "ws", 1) + "/ws"

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc

    @property
    def extra(self) -> dict[str, Any]:
        """What a gate adds to the answers of POST /prompt and GET /queue."""
        return {"gpu_id": self.gpu_id} if self.is_gate else {}

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send one request; a body that is not bytes goes out as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, timeout=LIMIT)
        try:
            connection.request(method, path, body, headers or {})
            got = connection.getresponse()
            content = got.read()
            return Answer(got.status, got.reason, {name.lower(): value for name, value in got.getheaders()}, content)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: Any = b"") -> Answer:
        return self.request("POST", path, body)

    def upload(self, path: str, content: bytes | None, filename: str = "a.png", **fields: str) -> Answer:
        """POST a form as browsers do."""
        edge = uuid.uuid4().hex
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        if content is not None:
            head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{filename}"\r\n'
            parts.append(head.encode() + b"Content-Type: image/png\r\n\r\n" + content + b"\r\n")
        body = b"".join(parts) + f"--{edge}--\r\n".encode()
        return self.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={edge}"})

    def queue(self, prompt: dict[str, Any], **more: Any) -> str:
        """Queue a prompt that must be accepted; its id."""
        answer = self.post("/prompt", {"prompt": prompt, **more})
        assert answer.status == 200, answer.body
        return str(answer.json["prompt_id"])

    def wait(self, prompt_id: str, limit: float = LIMIT) -> dict[str, Any]:
        """The history of a prompt, once it has one."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}").json
            if history:
                return dict(history[prompt_id])
            time.sleep(0.02)
        raise AssertionError(f"{prompt_id} has not ended")

    def until(self, path: str, condition: Any) -> Any:
        """Ask `path` until `condition` holds for the JSON in its answer."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            seen = self.get(path).json
            if condition(seen):
                return seen
            time.sleep(0.02)
        raise AssertionError(f"{path} still says {seen}")

    def idle(self) -> None:
        """Interrupt and forget everything, and wait until nothing runs."""
        self.post("/queue", {"clear": True})
        self.post("/interrupt")
        self.until("/prompt", lambda seen: seen["exec_info"]["queue_remaining"] == 0)

    def listen(self, client_id: str = "", flags: dict[str, Any] | None = None) -> Listener:
        """Open a WebSocket, with feature flags as its first message where given."""
        listener = Listener.open(self.host, f"/ws?clientId={client_id}" if client_id else "/ws")
        if flags is not None:
            listener.send(json.dumps({"type": "feature_flags", "data": flags}))
        return listener


@dataclass
class Listener:
    """One WebSocket (RFC 6455), read message by message."""

    stream: socket.socket
    buffer: bytes = b""
    close_code: int | None = field(default=None)

    @classmethod
    def open(cls, host: str, target: str) -> Listener:
        name, _, port = host.partition(":")
        listener = cls(socket.create_connection((name, int(port)), timeout=LIMIT))
        try:
            listener._shake_hands(host, target)
        except BaseException:
            listener.stream.close()
            raise
        return listener

    def _shake_hands(self, host: str, target: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.stream.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        proof = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        assert proof in head

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stream.close()

    def send(self, text: str) -> None:
        self._frame(0x1, text.encode())

    def _frame(self, opcode: int, content: bytes) -> None:
        mask = os.urandom(4)
        size = len(content)
        length = bytes([0x80 | size]) if size < 126 else struct.pack(">BQ", 0xFF, size)
        whole = content if size > 65536 else bytes(byte ^ mask[index % 4] for index, byte in enumerate(content))
        self.stream.sendall(bytes([0x80 | opcode]) + length + (b"\0\0\0\0" if size > 65536 else mask) + whole)

    def next(self, limit: float = LIMIT) -> dict[str, Any] | bytes | None:
        """The next message: an object, bytes, or None once the server has closed."""
        self.stream.settimeout(limit)
        whole, kind = b"", 0
        while True:
            first, content = self._next_frame()
            opcode = first & 0x0F
            if opcode == 0x8:
                self.close_code = struct.unpack(">H", content[:2])[0] if content else None
                return None
            if opcode == 0x9:
                self._frame(0xA, content)
            elif opcode != 0xA:
                kind = opcode or kind
                whole += content
                if first & 0x80:
                    return whole if kind == 0x2 else dict(json.loads(whole))

    def quiet(self, seconds: float) -> bool:
        """Whether nothing arrives for so long."""
        try:
            self.next(seconds)
        except TimeoutError:
            return True
        return False

    def until_quiet(self, seconds: float) -> list[dict[str, Any] | bytes | None]:
        """What arrives until nothing has for so long."""
        seen: list[dict[str, Any] | bytes | None] = []
        with contextlib.suppress(TimeoutError):
            while True:
                seen.append(self.next(seconds))
        return seen

    def until_idle(self, prompt_id: str) -> list[dict[str, Any] | bytes]:
        """Messages up to the last one about a prompt: ``executing`` with no node."""
        seen: list[dict[str, Any] | bytes] = []
        while True:
            message = self.next()
            assert message is not None, f"closed: {self.close_code}"
            seen.append(message)
            if not isinstance(message, bytes) and message["type"] == "executing" and message["data"]["node"] is None:
                assert message["data"]["prompt_id"] == prompt_id
                return seen

    def _next_frame(self) -> tuple[int, bytes]:
        first, second = self._take(2)
        size = second & 0x7F
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(self._take(width), "big")
        return first, self._take(size)

    def _take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self._more()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def _more(self) -> None:
        piece = self.stream.recv(262144)
        assert piece, "the connection ended without a close frame"
        self.buffer += piece
