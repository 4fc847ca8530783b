"""What both ends of a relay ask of their sockets."""

# The names are Twisted's.
# ruff: noqa: N802

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any, Protocol, cast

from twisted.internet.abstract import isIPAddress
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.interfaces import IAddress, IProtocol, IPushProducer, IStreamClientEndpoint, ISystemHandle


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


KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""Seconds of silence before a peer is probed, between probes, and probes before it counts as gone."""

_TCP_CLOSE = 7  # a state in TCP_INFO, see linux/include/net/tcp_states.h


def tune(wire: Wire) -> None:
    """Send small pieces at once, and notice a peer that vanished (TCP only)."""
    found = _socket(wire)
    if found is not None:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            found.setsockopt(socket.IPPROTO_TCP, option, value)


def is_dead(wire: Wire) -> bool:
    """Whether the kernel knows that the peer is gone (TCP only).

    It tells a reactor so only while something is to be read or written, and
    from a client that has half-closed nothing more is read.
    """
    found = _socket(wire)
    return found is not None and found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE


def _socket(wire: Wire) -> socket.socket | None:
    # A UNIX socket's transport also claims to provide ITCPTransport.
    if not isinstance(wire.getPeer(), IPv4Address | IPv6Address) or not ISystemHandle.providedBy(wire):
        return None
    return cast(socket.socket, cast(ISystemHandle, wire).getHandle())


def peer_ip(wire: Wire) -> str:
    """Give the peer's IP address, or ``""`` if it has none."""
    peer = wire.getPeer()
    return str(peer.host) if isinstance(peer, IPv4Address | IPv6Address) else ""


def tcp_endpoint(reactor: Any, host: str, port: int, seconds: float) -> IStreamClientEndpoint:
    """How to reach a host; the addresses of our own backends need no look-up in a thread.

    :param seconds: to connect in.
    """
    if isIPAddress(host):
        return TCP4ClientEndpoint(reactor, host, port, timeout=seconds)
    return HostnameEndpoint(reactor, host, port, timeout=seconds)
