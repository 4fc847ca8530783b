"""Ports that relay every request to one backend each.

Arguments: "fast" or "plain", which is how it is done.
Each line of its standard input asks for a port: the backend's port, the limits
and the options of Relay, in JSON.  Prints the new port's number, and ends when
its standard input does.
"""

import json
import sys
import time
from typing import Any

from twisted.internet import reactor, stdio
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.protocols.basic import LineReceiver
from twisted.python import log
from zope.interface import implementer

from comfygate.gate.fast_path.loop import spin
from comfygate.gate.fast_path.transports import Dialler, shorten
from comfygate.gate.limits import Limits
from comfygate.gate.plans import Plans
from comfygate.gate.pool import UpstreamPool
from comfygate.gate.server import GateFactory
from comfygate.gate.site import Era, IGateSite, Relay
from comfygate.http1 import Headers, RequestHead

reactor.seconds = time.monotonic
FAST = sys.argv[1] == "fast"


@implementer(IGateSite)
class Site:
    def __init__(self, port: int, options: dict[str, Any]) -> None:
        self.options = options
        self.host = b"127.0.0.1:%d" % port
        self.era = Era()
        dialler = Dialler(reactor) if FAST else reactor
        self.pool = UpstreamPool(TCP4ClientEndpoint(dialler, "127.0.0.1", port), reactor)

    def admit(self, head: RequestHead, peer: str) -> Relay:
        return Relay(pool=self.pool, host=self.host, era=self.era, **self.options)

    def error_headers(self, head: RequestHead) -> Headers:
        return ()


class Orders(LineReceiver):
    """Opens a port for each line."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        order = json.loads(line)
        site, plans = Site(order["backend"], order["relay"]), Plans(at_once=True) if FAST else Plans(0)
        factory = GateFactory(site, reactor, Limits(**order["limits"]), plans=plans)
        listening = reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1")
        if FAST:
            shorten(listening)
        self.sendLine(b"%d" % listening.getHost().port)

    def connectionLost(self, reason: object = None) -> None:
        if reactor.running:
            reactor.stop()


if FAST:
    spin(reactor)
log.startLogging(sys.stderr, setStdout=False)
stdio.StandardIO(Orders())
reactor.run()
