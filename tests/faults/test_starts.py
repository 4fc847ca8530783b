"""A ComfyUI that does not start, and a port that somebody else takes before it can."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.faults.witness import witnessed
from tests.gateway import Gateway, eventually, is_alive

QUICK = "restart_delay = 0.05\nrestart_delay_max = 0.1\n"


def test_five_failed_starts_lose_no_prompt(tmp_path: Path) -> None:
    # The sixth start succeeds, as if somebody had mended it.
    config = f"{QUICK}[gpu:1]\narguments = --sim-start-seconds 0.3 --sim-fail-start 5\n"
    with witnessed(tmp_path, config, gpus=2, ready=False) as (gateway, witness):
        gateway.wait_ready(0)
        waiting = [witness.accepted(gateway.ports[1], 0.05) for _ in range(4)]
        either = [witness.accepted(gateway.hub, 0.05) for _ in range(4)]
        pinned = witness.accepted(gateway.hub, headers={"X-Target-GPU": "1"})
        eventually(lambda: gateway.states() == ["ready", "failed"])
        refused = witness.submit(gateway.ports[1])
        assert refused.said.startswith("503"), refused
        eventually(lambda: all(witness.begun(prompt_id) for prompt_id in either))
        assert gateway.queues()[1]["pending_count"] == len(waiting) + 1
        assert gateway.stop() == 0
        gateway.start()
        gateway.wait_ready()
        verdict = witness.check()
    assert all(verdict.ends[prompt_id].how == "done" for prompt_id in (*waiting, *either, pinned)), verdict.report()
    assert verdict.evidence.events[waiting[0]]["execution_start"] == 1


class Stranger(http.server.BaseHTTPRequestHandler):
    """Answers everything, like a ComfyUI with nothing to do."""

    asked: list[str]

    def do_GET(self) -> None:
        self._answer(b'{"exec_info":{"queue_remaining":0}}')

    def do_POST(self) -> None:
        self._answer(b'{"prompt_id":"stolen","number":0,"node_errors":{}}')

    def _answer(self, body: bytes) -> None:
        self.asked.append(self.requestline)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing."""


@contextlib.contextmanager
def stranger(port: int) -> Iterator[list[str]]:
    """Listen on a port; the requests that came."""
    asked: list[str] = []
    handler = type("Listening", (Stranger,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


def test_a_port_that_a_stranger_takes_is_left_to_him(tmp_path: Path) -> None:
    config = f"{QUICK}[gpu:0]\narguments = --sim-start-seconds 1.5\n"
    with witnessed(tmp_path, config, gpus=2, ready=False) as (gateway, witness):
        pid = eventually(lambda: starting(gateway, 0))
        with stranger(port_of(pid)) as asked:
            gateway.wait_ready(1)
            preview = preview_of(gateway, 1)
            waiting = [witness.accepted(gateway.ports[0], 0.05) for _ in range(3)]
            eventually(lambda: not is_alive(pid))
            gateway.wait_ready(0)
            assert preview.exists()
            verdict = witness.check()
            # Whether somebody is there may be asked; nothing else is any of his business.
            assert not [line for line in asked if line.startswith("POST") or "queue" in line or "history" in line]
    assert all(verdict.ends[prompt_id].how == "done" for prompt_id in waiting), verdict.report()
    assert verdict.count("failed") == 0


def starting(gateway: Gateway, gpu_id: int) -> int | None:
    with contextlib.suppress(AssertionError):
        return gateway.backend_pid(gpu_id)
    return None


def port_of(pid: int) -> int:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return int(words[words.index(b"--port") + 1])


def preview_of(gateway: Gateway, gpu_id: int) -> Path:
    """A file in a GPU's temp folder, which a ComfyUI empties when it starts and when it ends."""
    path = gateway.folder / "state" / f"gpu-{gpu_id}" / "temp" / "preview.png"
    path.write_bytes(b"mine")
    return path
