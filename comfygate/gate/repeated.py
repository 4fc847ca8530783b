"""A request that was decided about before, done again with as little work as possible."""

from __future__ import annotations

from typing import Protocol
from weakref import ref

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from comfygate.gate.alarm import Due
from comfygate.gate.limits import Limits
from comfygate.gate.plans import Plan, Plans
from comfygate.gate.pool import UpstreamConnection
from comfygate.gate.relay import Client, Exchange


class RepeatingClient(Client, Protocol):
    """The client's end."""

    def repeats(self, plan: Plan) -> None:
        """A request like that of `plan` is under way."""

    def exchanges(self, exchange: Exchange) -> None:
        """It is under way like any other from now on."""

    def answer_again(self, status: int, data: bytes) -> None:
        """Send a whole answer, and be ready for the next request."""


class Repeated:
    """In the place of an exchange for requests with a plan; one for all of a client's, for it is hardly ever needed.

    As soon as anything but a whole answer with a known head happens, it puts
    an :class:`~comfygate.gate.relay.Exchange` into its own place.
    """

    ready = False  # the request's body has gone with its head
    answering = False
    _known: ref[Plan] | None = None  # the last plan, as long as the port has it
    _plan: Plan
    _upstream: UpstreamConnection
    _request: bytes
    _began: float

    def __init__(self, client: RepeatingClient, plans: Plans, clock: IReactorTime, limits: Limits) -> None:
        self._client = client
        self._plans = plans
        self._clock = clock
        self._limits = limits

    def take(self, data: bytes) -> bool:
        """Begin a request that has come whole, if there is a plan for it and a connection lies ready."""
        plan = self._known() if self._known is not None else None  # the next request is often the same
        if plan is None or plan.raw != data or plan.size or plan.era.over:
            end = data.find(b"\r\n\r\n") + 4
            plan = self._plans.find(self._client.peer, data[:end])
            if plan is None or plan.size != len(data) - end:
                return False
            self._known = ref(plan)
        upstream = plan.relay.pool.take()
        if upstream is None:
            return False
        self._plan = plan
        self._upstream = upstream
        self._request = plan.request + data[-plan.size :] if plan.size else plan.request
        self._began = self._clock.seconds()
        client = self._client
        client.repeats(plan)
        upstream.begin(self, self._request)
        if plan.relay.backend_timeout < self._limits.idle:  # else the alarm that is set comes first
            client.watch()
        return True

    # Borrower.

    def upstream_received(self, data: bytes) -> None:
        """Pass the answer on."""
        told = self._plan.recognise(data)
        client = self._client
        if told is None or client.closing:
            self._exchange().upstream_received(data)
            return
        # The client may be idle for long, and hold nothing meanwhile.
        del self._plan, self._request
        self._upstream.give_back()
        client.answer_again(told.answer.status, data if told.is_unchanged else told.anew(data))

    def upstream_lost(self, reason: Failure) -> None:
        """See :class:`comfygate.gate.relay.Exchange`, as for all below."""
        self._exchange().upstream_lost(reason)

    def upstream_full(self) -> None:
        """The upstream has not read the request."""
        self._exchange().upstream_full()

    def upstream_drained(self) -> None:
        """The upstream has read."""
        self._exchange().upstream_drained()

    # What the client's connection asks of an exchange.

    def due(self) -> Due | None:
        """When whoever is waited for is overdue."""
        return self._exchange().due()

    def request_body(self, pieces: list[bytes], finished: bool) -> None:
        """There is no more of it."""
        self._exchange().request_body(pieces, finished)

    def body_broken(self, details: str) -> None:
        """There is no more of it."""
        self._exchange().body_broken(details)

    def client_full(self) -> None:
        """The client reads slowly."""
        self._exchange().client_full()

    def client_drained(self) -> None:
        """The client has read."""
        self._exchange().client_drained()

    def client_lost(self) -> None:
        """The client is gone."""
        self._exchange().client_lost()

    def _exchange(self) -> Exchange:
        plan = self._plan
        exchange = Exchange(self._client, plan.head, plan.relay, self._clock, self._limits)
        exchange.go_on(plan, self._upstream, self._request, self._began)
        del self._plan, self._request
        self._client.exchanges(exchange)
        return exchange
