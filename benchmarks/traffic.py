"""Traffic for a soak: everything that clients do all day, at a steady pace, on every port."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

from tests.contract.comfyui_client import Listener
from tests.faults.watch import Watch
from tests.faults.witness import Witness
from tests.gateway import request, workflow

NAMES = 20
"""Names that uploads take in turn, so that the input folder stays small."""

SLOW_PAUSE = 0.5
"""Seconds that a slow reader takes for each message."""

EDGE = "soak"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(20_000)


class Port(threading.Thread):
    """Sends requests to one port: of ten, three prompts, two looks each at queue and history, two pictures, an upload.

    :param rate: requests a second.
    :param files: names of pictures that are there.
    :ivar answers: how often each status was answered; 0 for no answer.
    """

    def __init__(
        self, witness: Witness, port: int, rate: float, seed: int, clients: list[str], files: deque[str]
    ) -> None:
        super().__init__(daemon=True)
        self.answers: Counter[int] = Counter()
        self.stop = threading.Event()
        self._witness = witness
        self._port = port
        self._pause = 1 / rate
        self._chance = random.Random(seed)
        self._clients = clients
        self._files = files

    def run(self) -> None:
        """Keep the pace until told to stop; what took too long is not made up for."""
        kinds = 3 * [self._prompt] + 2 * [self._queue] + 2 * [self._history] + 2 * [self._view] + [self._upload]
        due = time.monotonic()
        while not self.stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._pause, time.monotonic() - 1.0)
            try:
                self.answers[self._chance.choice(kinds)()] += 1
            except (OSError, http.client.HTTPException):
                self.answers[0] += 1

    def _prompt(self) -> int:
        seconds = self._chance.choice((0.0, 0.05, 0.1, 0.2))
        prompt = workflow(seconds, preview=True) if seconds else workflow()
        sent = self._witness.submit(self._port, prompt, client_id=self._chance.choice(self._clients))
        return int(sent.said[:3]) if sent.said[:3].isdigit() else 0

    def _queue(self) -> int:
        return request(self._port, "GET", "/queue").status

    def _history(self) -> int:
        return request(self._port, "GET", "/history?max_items=5").status

    def _view(self) -> int:
        name = self._chance.choice(self._files) if self._files else None
        return request(self._port, "GET", f"/view?filename={name}&type=output" if name else "/").status

    def _upload(self) -> int:
        name = f"soak-{self._chance.randrange(NAMES)}.png"
        head = f'--{EDGE}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        body = head + PICTURE + f'\r\n--{EDGE}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\n'.encode()
        body += f"true\r\n--{EDGE}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={EDGE}"}
        return request(self._port, "POST", "/upload/image", body, headers).status


class Restless(threading.Thread):
    """A WebSocket client that leaves and comes back, or one that takes its time with every message.

    :ivar connections: how many it had.
    """

    def __init__(self, port: int, client_id: str, seed: int, *, slow: bool) -> None:
        super().__init__(daemon=True)
        self.connections = 0
        self.stop = threading.Event()
        self._host = f"127.0.0.1:{port}"
        self._target = f"/ws?clientId={client_id}"
        self._listener: Listener | None = None
        self._chance = random.Random(seed)
        self._slow = slow

    def leave(self) -> None:
        """Hang up for good."""
        self.stop.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.stream.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Come and go until told to stop."""
        while not self.stop.wait(0.2):
            # Being sent away is an assertion of Listener.
            with contextlib.suppress(OSError, AssertionError), Listener.open(self._host, self._target) as listener:
                self._listener = listener
                self.connections += 1
                if self._slow:
                    listener.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                self._read(listener, time.monotonic() + self._chance.uniform(2, 20))

    def _read(self, listener: Listener, until: float) -> None:
        # Messages come at least whenever a prompt is accepted.
        while not self.stop.is_set() and (self._slow or time.monotonic() < until):
            if listener.next() is None:
                return
            if self._slow:
                self.stop.wait(SLOW_PAUSE)


@contextlib.contextmanager
def traffic(witness: Witness, rate: float, sockets: int, files: deque[str]) -> Iterator[Callable[[], Counter[int]]]:
    """Let everybody come.

    :param rate: requests a second and port.
    :param sockets: WebSocket clients; every fifth is slow, every fifth comes and goes.
    :return: what the answers were so far, by status.
    """
    gateway = witness.gateway
    ports = (*gateway.ports, gateway.hub)
    ids = [f"soak-{n}" for n in range(sockets)]
    restless = [Restless(ports[n % len(ports)], ids[n], n, slow=n % 5 == 0) for n in range(sockets) if n % 5 < 2]
    steady = [Watch(ports[n % len(ports)], ids[n]) for n in range(sockets) if n % 5 >= 2]
    clients = [*ids, *len(ids) * [witness.client_id]]
    senders = [Port(witness, port, rate, n, clients, files) for n, port in enumerate(ports)]
    for thread in (*restless, *senders):
        thread.start()
    try:
        yield lambda: sum((sender.answers for sender in senders), Counter[int]())
    finally:
        for sender in senders:
            sender.stop.set()
        for one in restless:
            one.leave()
        for thread in (*senders, *restless):
            thread.join()
        for watch in steady:
            watch.close()
