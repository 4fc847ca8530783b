"""What a port counts, in plain integers: it is on the path of every request."""

from __future__ import annotations

from collections import defaultdict

from attrs import define, field, frozen

from comfygate.routes import Kind


@define(eq=False)
class Tally:
    """What has passed through one port since the daemon's start.

    Whoever counts adds to the numbers themselves, and whoever reads them copies
    them: there is one thread.

    :ivar requests: answers by what was asked and status, ours and relayed ones;
        WebSockets with the status of their handshake.
    :ivar received: bytes from clients: heads, bodies and WebSocket frames.
    :ivar sent: bytes to clients, likewise.
    """

    requests: defaultdict[tuple[Kind, int], int] = field(factory=lambda: defaultdict(int))
    received: int = 0
    sent: int = 0

    @property
    def answered(self) -> int:
        """All requests that were answered."""
        return sum(self.requests.values())

    @property
    def refused(self) -> int:
        """Requests for which there was no token."""
        return sum(count for (_, status), count in self.requests.items() if status == 429)


@frozen
class GateFigures:
    """One port at one moment.

    :ivar websocket_clients: WebSockets that are open.
    """

    name: str
    port: int
    gpu_ids: tuple[int, ...]
    tally: Tally
    websocket_clients: int
