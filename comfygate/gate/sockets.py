"""What both ends of a relay ask of their sockets."""

# The names are Twisted's.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocol, IPushProducer, ITCPTransport


class Wire(Protocol):
    """The part of Twisted's stream transports that is used here, in one type."""

    protocol: IProtocol

    def write(self, data: bytes) -> None:
        """Queue bytes to be sent."""

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Queue several pieces."""

    def pauseProducing(self) -> None:
        """Stop reading."""

    def resumeProducing(self) -> None:
        """Read again."""

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Tell `producer` when what is queued piles up, and when it has gone."""

    def unregisterProducer(self) -> None:
        """Tell nobody any more."""

    def loseConnection(self) -> None:
        """Close when what is queued has been sent."""

    def loseWriteConnection(self) -> None:
        """Send FIN when what is queued has been sent; go on reading."""

    def abortConnection(self) -> None:
        """Close at once, with RST."""

    def getPeer(self) -> IAddress:
        """Give the other end's address."""


def tune(wire: Wire) -> None:
    """Send small pieces at once, and notice a peer that vanished (TCP only)."""
    # A UNIX socket's transport also claims to provide ITCPTransport.
    if isinstance(wire.getPeer(), IPv4Address | IPv6Address) and ITCPTransport.providedBy(wire):
        tcp = cast(ITCPTransport, wire)
        tcp.setTcpNoDelay(True)
        tcp.setTcpKeepAlive(True)


def peer_ip(wire: Wire) -> str:
    """Give the peer's IP address, or ``""`` if it has none."""
    peer = wire.getPeer()
    return str(peer.host) if isinstance(peer, IPv4Address | IPv6Address) else ""
