"""Two ports that bridge every WebSocket to one backend, and nothing else.

Arguments: the backend's port, "fast" or "plain", and limits in JSON.  The backend is ready, until
it is said to be lost.  Prints its two ports, and
answers each line of commands from its standard input with one of JSON.
"""

import json
import sys
import time
from typing import Any

from attrs import evolve
from twisted.internet import reactor, stdio
from twisted.protocols.basic import LineReceiver
from twisted.python import log
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.gate.audience import Sessions
from comfygate.gate.bridge import Bridges
from comfygate.gate.fast_path.loop import spin
from comfygate.gate.fast_path.transports import Dialler, shorten
from comfygate.gate.server import GateFactory
from comfygate.gate.site import IGateSite, Upgrade
from comfygate.gate.sockets import tcp_endpoint
from comfygate.gate.websocket_leg import Limits
from comfygate.http1 import Headers, RequestHead
from comfygate.interfaces import IStatusSource
from comfygate.model import BackendState

reactor.seconds = time.monotonic


@implementer(IGateSite)
class Site:
    """Bridges everything."""

    def __init__(self, bridges: Bridges) -> None:
        self.bridges = bridges

    def admit(self, head: RequestHead, peer: str) -> Upgrade:
        return Upgrade(self.bridges.accept(head))

    def error_headers(self, head: RequestHead) -> Headers:
        return ()


class Place:
    """Where the backend is, and whether."""

    gpu_id = 0
    retry_after = 1.0
    last_error = None

    def __init__(self, port: int) -> None:
        self.address: tuple[str, int] | None = ("127.0.0.1", port)
        self.state = BackendState.READY


@implementer(IStatusSource)
class Status:
    number = 0

    def remaining(self) -> int:
        return self.number

    def heard(self, kind: bytes, payload: bytes) -> None:
        if kind != b"executed":
            self.number -= 1


class Commands(LineReceiver):
    delimiter = b"\n"

    def __init__(self, ports: list[Site], place: Any, status: Status, sessions: Sessions) -> None:
        self.ports = ports
        self.place = place
        self.status = status
        self.sessions = sessions

    def lineReceived(self, line: bytes) -> None:
        name, *arguments = json.loads(line)
        answer = getattr(self, name)(*arguments)
        if answer is not None:
            self.answer(answer)

    def answer(self, answer: Any) -> None:
        self.sendLine(json.dumps(answer).encode())

    def connectionLost(self, reason: object = None) -> None:
        if reactor.running:
            reactor.stop()

    def remaining(self, number: int) -> dict[str, Any]:
        self.status.number = number
        for port in self.ports:
            port.bridges.status_changed()
        return {}

    def become(self, state: str, port: int = 0) -> dict[str, Any]:
        self.place.state = BackendState(state)
        self.place.address = ("127.0.0.1", port) if port else None
        for one in self.ports:
            one.bridges.backend_changed(self.place)
        self.sessions.backend_changed(self.place)
        return {}

    def close(self) -> None:
        self.ports[0].bridges.close().addCallback(lambda _: self.answer({}))

    def counts(self) -> dict[str, Any]:
        with open("/proc/self/status") as lines:
            rss = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        return {
            "clients": [port.bridges.clients for port in self.ports],
            "bridges": [len(port.bridges._bridges) for port in self.ports],
            "links": [len(port.bridges._links) for port in self.ports],
            "sessions": len(self.sessions),
            "timers": len(reactor.getDelayedCalls()),
            "sockets": len(reactor.getReaders()),
            "rss": rss * 1024,
        }


def main() -> None:
    log.startLogging(sys.stderr, setStdout=False)
    limits = evolve(Limits(), **json.loads(sys.argv[3])) if len(sys.argv) > 3 else Limits()
    fast = sys.argv[2] == "fast"
    place: Any = Place(int(sys.argv[1]))
    status, sessions = Status(), Sessions(reactor)
    sessions.backend_changed(place)
    parts: Any = {"fleet": Fleet([place]), "gpu_ids": (0,), "sessions": sessions, "limits": limits}
    if fast:
        parts["endpoint"] = lambda host, port: tcp_endpoint(Dialler(reactor), host, port, limits.open)
        spin(reactor)
    ports = [Site(Bridges(reactor, status, **parts)) for _ in range(2)]
    factories = [GateFactory(port, reactor) for port in ports]
    listening = [reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1") for factory in factories]
    if fast:
        for port in listening:
            shorten(port)
    stdio.StandardIO(Commands(ports, place, status, sessions))
    print(json.dumps([port.getHost().port for port in listening]), flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
