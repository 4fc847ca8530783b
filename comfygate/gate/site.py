"""What a port is told to do with a request, and who tells it."""

# zope.interface describes methods without self.
# ruff: noqa: N805

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, ITransport
from zope.interface import Interface

from comfygate.http1 import Headers, RequestHead
from comfygate.routes import Kind

if TYPE_CHECKING:
    from comfygate.gate.pool import UpstreamPool
    from comfygate.gate.uploads import Turn


@define(eq=False)
class Era:
    """A time in which a gate decides the same about the same request.

    :ivar over: whether something has changed since.
    """

    over: bool = False


@frozen(kw_only=True)
class Relay:
    """Pass the request on, and the answer back.

    :ivar pool: connections to whoever answers.
    :ivar host: the ``Host`` that it is told.
    :ivar drop_headers: names (lower case) of fields that it is not told.
    :ivar only_headers: if given, names (lower case) of the only fields of the
        client's that it is told.
    :ivar extra_headers: fields that it is told besides, after the client's.
    :ivar answer_headers: fields added to its final answer.
    :ivar withheld: names (lower case) of fields of the answer that the client is not told.
    :ivar max_body: bytes of body beyond which the answer is 413.
    :ivar backend_timeout: seconds without a sign of life from it.
    :ivar kind: what the request counts as.
    :ivar turn: if given, the end of the request's body waits for it.
    :ivar era: if given, the same request is to be relayed like this again, until this is over.
    """

    pool: UpstreamPool
    host: bytes
    drop_headers: frozenset[bytes] = frozenset()
    only_headers: frozenset[bytes] | None = None
    extra_headers: Headers = ()
    answer_headers: Headers = ()
    withheld: frozenset[bytes] = frozenset()
    max_body: int | None = None
    backend_timeout: float = 300.0
    kind: Kind = Kind.OTHER
    turn: Turn | None = None
    era: Era | None = None


@frozen
class Upgrade:
    """Give the connection to another protocol.

    :ivar accept: called with the client's transport and everything received:
        the request head as sent and what came behind it.  The protocol that it
        returns is connected to the transport and then fed these bytes.
    """

    accept: Callable[[ITransport, bytes], IProtocol]


@frozen(kw_only=True)
class Answer:
    """Answer at once; Content-Length, Date and Connection are added."""

    status: int
    headers: Headers = ()
    body: bytes = b""


Decision = Relay | Upgrade | Answer


class IGateSite(Interface):
    """Decides for one port."""

    def admit(head: RequestHead, peer: str) -> Decision | Deferred[Decision]:
        """Say what to do with a request, before its body is read.

        :param peer: the client's IP address, or ``""`` on a UNIX socket.
        :return: the decision, or a Deferred of it that is cancelled when the
            client leaves.
        :raises GateError: to refuse the request.
        """

    def error_headers(head: RequestHead) -> Headers:
        """Give fields to add to the gate's own answer to `head`, such as those for other origins."""
