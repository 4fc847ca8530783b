"""A gate that says what a test tells it to: the page's files, and snapshots over HTTP."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from attrs import define, field

from comfygate.control.assets import StatusPage, content_security_policy

GIB = 2**30


def gpu(gpu_id: int, look: str = "idle", **facts: Any) -> dict[str, Any]:
    """One GPU in a snapshot; `look` is a state, or the load of one that is ready."""
    ready = look in ("idle", "busy", "full")
    return {
        "gpu_id": gpu_id,
        "name": "NVIDIA GeForce RTX 4090",
        "device": str(gpu_id),
        "port": 8181 + gpu_id,
        "owned": True,
        "state": "ready" if ready else look,
        "since": time.time() - 754,
        "restarts": 0,
        "last_error": None,
        "retry_after": 1.0,
        "load": look if ready else None,
        "running_count": int(look in ("busy", "full")),
        "pending_count": {"full": 15}.get(look, 0),
        "done": 30,
        "failed": 0,
        "cancelled": 0,
        "job": job() if look in ("busy", "full") else None,
        "memory": {"used": 12.3 * GIB, "total": 24 * GIB} if ready else None,
        "utilisation": {"idle": 0.0, "busy": 0.97, "full": 1.0}.get(look),
        "temperature": {"idle": 38, "busy": 64, "full": 71}.get(look),
        "process_memory": None,
        **facts,
    }


def job(**facts: Any) -> dict[str, Any]:
    """A prompt that runs."""
    return {
        "prompt_id": "0b9ffb0b-5be9-4a3f-9c0c-7d7a4d7a2d4e",
        "client_id": "6c1d",
        "since": time.time() - 72,
        "node": "5",
        "node_type": "KSampler",
        "value": 14.0,
        "max": 20.0,
        "nodes_done": 4,
        "nodes_total": 7,
        **facts,
    }


def snapshot(gpus: list[dict[str, Any]], *, errors: Any = (), **totals: int) -> dict[str, Any]:
    """What /comfygate/status says of these GPUs."""
    ids = [one["gpu_id"] for one in gpus]
    gates = [(f"gpu-{one['gpu_id']}", one["port"], [one["gpu_id"]], 1) for one in gpus]
    gates.append(("hub", 8188, ids, 3))
    return {
        "version": "1.0",
        "time": time.time(),
        "started": time.time() - 93_784,
        "totals": {
            "gpus": len(gpus),
            "ready": sum(one["state"] == "ready" for one in gpus),
            "running": sum(one["running_count"] for one in gpus),
            "pending": sum(one["pending_count"] for one in gpus),
            "waiting": 11,
            "done": sum(one["done"] for one in gpus),
            "failed": sum(one["failed"] for one in gpus),
            "cancelled": 2,
            "max_pending": 10_000,
            **totals,
        },
        "gates": [
            {"name": name, "port": port, "gpus": over, "websocket_clients": sockets, "requests": 1234, "refused": 0}
            for name, port, over, sockets in gates
        ],
        "gpus": gpus,
        "errors": list(errors),
    }


@define
class Stage:
    """The scripted gate.

    :ivar port: where it listens.
    :ivar readers: queues of those who follow the events.
    :ivar streams: streams opened so far.
    """

    port: int
    said: dict[str, Any]
    readers: list[queue.Queue[dict[str, Any] | None]] = field(factory=list)
    streams: int = 0

    @property
    def page(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.port}/comfygate/"

    def say(self, said: dict[str, Any]) -> None:
        """Tell everyone this."""
        self.said = said
        for reader in self.readers:
            reader.put(said)

    def hang_up(self) -> None:
        """End all streams."""
        while self.readers:
            self.readers.pop().put(None)


@contextmanager
def staged(said: dict[str, Any], port: int = 0) -> Iterator[Stage]:
    """Play a gate that says this at first."""
    pages = StatusPage.load()
    stage = Stage(port, said)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/comfygate/events":
                self._stream()
            elif asset := pages.assets.get(path.encode()):
                self._begin(asset.content_type.decode())
                self.send_header("Content-Security-Policy", content_security_policy(query.encode()).decode())
                self.end_headers()
                self.wfile.write(asset.body)
            else:
                self.send_error(404)

        def _begin(self, content_type: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Access-Control-Allow-Origin", "*")

        def _stream(self) -> None:
            self._begin("text/event-stream")
            self.end_headers()
            reader: queue.Queue[dict[str, Any] | None] = queue.Queue()
            reader.put(stage.said)
            stage.readers.append(reader)
            stage.streams += 1
            try:
                while (said := reader.get()) is not None:
                    self.wfile.write(b"event: status\ndata: %s\n\n" % orjson.dumps(said))
            except OSError:
                pass  # the window was closed

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Answer)
    server.daemon_threads = True
    stage.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stage
    finally:
        stage.hang_up()
        server.shutdown()
        thread.join()
        server.server_close()
