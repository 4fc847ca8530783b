"""More clients than the daemon may have file descriptors."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.verdict import Answer
from tests.faults.witness import Witness, witnessed
from tests.gateway import Gateway, eventually, request

LIMIT = 256
CLIENTS = 400
LIMITED = ("sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh")


def test_four_hundred_clients_and_256_descriptors(tmp_path: Path) -> None:
    with witnessed(tmp_path, gpus=2, prefix=LIMITED) as (gateway, witness):
        before = [witness.accepted(port, 1.0) for port in gateway.ports]
        with ThreadPoolExecutor(20) as threads, clients(gateway):
            list(threads.map(lambda n: submit(witness, gateway, n), range(100)))
            assert descriptors(gateway) <= LIMIT
            # With everything taken it waits, and does not ask again and again.
            used, began = cpu_seconds(gateway), time.monotonic()
            time.sleep(1.5)
            assert cpu_seconds(gateway) - used < 0.5 * (time.monotonic() - began)
            assert gateway.process.poll() is None
        after = [witness.accepted(port) for port in (*gateway.ports, gateway.hub) for _ in range(3)]
        for port in (*gateway.ports, gateway.hub):
            for target in ("/", "/queue", "/history", "/system_stats"):
                assert request(port, "GET", target).status == 200, target
        witness.wait_idle()
        eventually(lambda: descriptors(gateway) < LIMIT // 2)
        verdict = witness.check(most_runs=1)
    assert all(verdict.ends[prompt_id].how == "done" for prompt_id in (*before, *after))
    # It was too much indeed, and something went on all the same.
    assert witness.of(Answer.UNANSWERED, Answer.REFUSED)
    assert gateway.process.returncode == 0


@contextlib.contextmanager
def clients(gateway: Gateway) -> Iterator[None]:
    """Connect everybody, half of them to listen, and hold on to what was accepted."""
    ports = (*gateway.ports, gateway.hub)
    with contextlib.ExitStack() as stack:
        for n in range(CLIENTS):
            with contextlib.suppress(OSError):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", ports[n % 3]), 2))
                connection.settimeout(2)
                connection.sendall(listening(n) if n % 2 else b"GET /prompt HTTP/1.1\r\nHost: x\r\n\r\n")
        yield


def listening(n: int) -> bytes:
    return (
        f"GET /ws?clientId=crowd-{n} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def submit(witness: Witness, gateway: Gateway, n: int) -> None:
    ports = (*gateway.ports, gateway.hub)
    witness.submit(ports[n % 3])


def descriptors(gateway: Gateway) -> int:
    return len(os.listdir(f"/proc/{gateway.pid}/fd"))


def cpu_seconds(gateway: Gateway) -> float:
    fields = Path(f"/proc/{gateway.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
