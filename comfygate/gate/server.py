"""One port: makes a connection object for each client, and ends them all."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from comfygate.errors import GateError
from comfygate.gate.connection import GateConnection
from comfygate.gate.limits import Limits
from comfygate.gate.plans import Plans
from comfygate.gate.site import IGateSite
from comfygate.gate.tally import Tally

log = Logger()

MAX_REFUSED = 256  #: connections over the limit that are told so at one time


class GateFactory(Factory):
    """Serves one port.

    Listen with a backlog of 1024 or so: Twisted's default is 50.

    :param site: decides about each request.
    :param clock: times all waits.
    :param name: what the log calls the port.
    :param tally: counts what passes.
    :param plans: remembers what was decided.
    """

    noisy = False

    def __init__(
        self,
        site: IGateSite,
        clock: IReactorTime,
        limits: Limits | None = None,
        *,
        name: str = "gate",
        tally: Tally | None = None,
        plans: Plans | None = None,
    ) -> None:
        self.site = site
        self.name = name
        self.clock = clock
        self.limits = limits or Limits()
        self.stopping = False
        self.tally = tally or Tally()
        self.plans = Plans() if plans is None else plans
        self._connections: set[GateConnection] = set()
        self._stopped: Deferred[None] | None = None
        self._grace: IDelayedCall | None = None

    def logPrefix(self) -> str:
        """What the log calls the port."""
        return self.name

    @property
    def connections(self) -> int:
        """Clients that are connected; those handed over to another protocol don't count."""
        return len(self._connections)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """Take a client, or tell it that there are too many."""
        if self.stopping or len(self._connections) >= self.limits.connections + MAX_REFUSED:
            return None
        refusal = None
        if len(self._connections) >= self.limits.connections:
            refusal = GateError(
                503, "too_many_connections", "Too many clients are connected to this port.", retry_after=1.0
            )
        connection = GateConnection(self, refusal)
        self._connections.add(connection)
        return connection

    def left(self, connection: GateConnection) -> None:
        """`connection` is closed, or somebody else's now."""
        self._connections.discard(connection)
        if self._stopped is not None and not self._connections:
            stopped, self._stopped = self._stopped, None
            if self._grace is not None:
                self._grace.cancel()
                self._grace = None
            stopped.callback(None)

    def stop(self, grace: float = 5.0) -> Deferred[None]:
        """Close idle connections now, the others after their answer, all after `grace` seconds.

        Stop listening first.

        :return: fires when no connection is left.
        """
        self.stopping = True
        if not self._connections:
            return succeed(None)
        stopped = self._stopped = Deferred()
        self._grace = self.clock.callLater(grace, self._abort_all)
        for connection in list(self._connections):
            connection.close_if_idle()
        return stopped

    def _abort_all(self) -> None:
        self._grace = None
        log.debug("{count} connections are cut off", count=len(self._connections))
        for connection in list(self._connections):
            connection.abort()
