"""How long a port waits, and how much it holds, for one client connection."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Limits:
    """Seconds and bytes.

    :ivar connections: client connections at most; beyond, 503.
    :ivar head: seconds for a request head, from its first byte (from the
        connection's start for the first one); then 408.
    :ivar idle: seconds between requests; then the connection is closed silently.
    :ivar admit: seconds that the site may take to decide; then 503.
    :ivar body_idle: seconds without a byte of the request body; then 408.
    :ivar stalled: seconds in which a client takes nothing of what waits for it;
        then it is cut off.
    :ivar half_closed: seconds after which a client that has closed its side is
        sent a needless 100, to see whether it still waits for its answer.
    :ivar drain: seconds to read what remains of the body of a refused request.
    :ivar drain_size: bytes of such a body; with more, the connection is closed.
    :ivar linger: seconds in which what the client still sends is thrown away,
        so that the answer before the end is not lost to a reset (RFC 9112,
        section 9.6).
    :ivar linger_size: bytes thrown away at most.
    :ivar pipelined: bytes held that came before their turn.
    """

    connections: int = 4096
    head: float = 10.0
    idle: float = 75.0
    admit: float = 60.0
    body_idle: float = 60.0
    stalled: float = 300.0
    half_closed: float = 1.0
    drain: float = 10.0
    drain_size: int = 64 * 1024
    linger: float = 2.0
    linger_size: int = 4 * 1024 * 1024
    pipelined: int = 128 * 1024
