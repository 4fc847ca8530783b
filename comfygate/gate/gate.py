"""One port: what becomes of each request to it."""

from __future__ import annotations

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.backend.writer import UserWriter
from comfygate.bucket import Buckets
from comfygate.errors import GateError
from comfygate.files import file_of_request
from comfygate.gate.bridge import Bridges
from comfygate.gate.places import Places
from comfygate.gate.pool import UpstreamPool
from comfygate.gate.site import Decision, Era, IGateSite, Relay, Upgrade
from comfygate.gate.uploads import Turn, UploadRoom
from comfygate.gate.upstreams import Upstreams
from comfygate.http1 import Headers, RequestHead
from comfygate.interfaces import IBackend
from comfygate.model import BackendState, is_gpus_own
from comfygate.origin import same_origin
from comfygate.routes import Kind, Metering, Route, classify
from comfygate.routing.home import home

GATE_HEADER = b"X-ComfyGate-Gate"
"""Tells the control plane which gate a request came through; no client can set it."""

CONTENT_TYPE_HEADER = b"X-ComfyGate-Content-Type"
"""Tells the control plane what an upload is; it must not parse one by itself."""

# What the gate says itself, or must not be said by a client.
_NOT_PASSED = frozenset({b"origin", GATE_HEADER.lower()})
# All that the control plane reads; so nothing else can reach its parser or its bounds.
_FOR_CONTROL = frozenset({b"accept", b"content-length", b"expect", b"if-none-match", b"x-target-gpu"})

_OUR_SILENCE = 60.0
"""Seconds that our own routes may be silent, however little a backend may."""


@frozen(kw_only=True)
class GateFacts:
    """How one port behaves.

    :ivar gpu_ids: its set, in order.  What is relayed goes to the GPU at
        which a client is at home.
    :ivar by_client: whether each client address has a bucket of its own.
    :ivar max_wait: seconds that a request may wait for a token.
    :ivar max_prompt: bytes of a body that the control plane reads whole.
    :ivar max_body: bytes of a body that is relayed; 0 for no bound.
    :ivar backend_timeout: seconds without a sign of life from a backend.
    """

    name: str
    gpu_ids: tuple[int, ...]
    rate: float
    burst: float
    by_client: bool
    max_wait: float
    metered: tuple[str, ...]
    max_prompt: int
    max_body: int
    backend_timeout: float


@implementer(IGateSite)
class Gate:
    """Decides for one port: refuse, answer by the control plane, relay, or bridge.

    :param control: connections to the control plane.
    :param uploads: where the uploads of all ports end.
    :param writer: who answers for the user folder, for all ports.
    :param places: where files lie.
    :ivar bridges: the WebSockets of this port.
    """

    def __init__(
        self,
        facts: GateFacts,
        *,
        fleet: Fleet,
        upstreams: Upstreams,
        control: UpstreamPool,
        bridges: Bridges,
        uploads: UploadRoom,
        writer: UserWriter,
        places: Places,
        clock: IReactorTime,
    ) -> None:
        self.bridges = bridges
        self._fleet = fleet
        self._upstreams = upstreams
        self._control = control
        self._uploads = uploads
        self._writer = writer
        self._places = places
        self._clock = clock
        self._buckets = Buckets(facts.rate, facts.burst)
        self._era = Era()
        self._relays: dict[tuple[int, Kind], Relay] = {}  # of this era
        self._take_on(facts)

    def behave(self, facts: GateFacts) -> None:
        """Decide like this from now on."""
        old = self.facts
        if (old.rate, old.burst, old.by_client) != (facts.rate, facts.burst, facts.by_client):
            self._buckets = Buckets(facts.rate, facts.burst)
        self._take_on(facts)

    def backend_changed(self) -> None:
        """A backend has another state: clients may be at home elsewhere."""
        self._end_era()

    def _end_era(self) -> None:
        self._era.over = True
        self._era = Era()
        self._relays = {}

    def _take_on(self, facts: GateFacts) -> None:
        self._end_era()
        self.facts = facts
        self._metering = Metering(facts.metered)
        self._several = len(facts.gpu_ids) > 1 or not is_gpus_own(facts.name)

    def admit(self, head: RequestHead, peer: str) -> Decision | Deferred[Decision]:
        """See :class:`comfygate.gate.site.IGateSite`."""
        self._check_origin(head)
        route = classify(head.method, head.path, several=self._several)
        if not (self.facts.rate > 0 and self._metering.metered(route)):
            return self._decide(head, route, peer, self._era)
        wait = self._take_token(peer)
        if wait:
            waiting: Deferred[None] = deferLater(self._clock, wait)
            return waiting.addCallback(lambda _: self._decide(head, route, peer))
        return self._decide(head, route, peer)

    def error_headers(self, head: RequestHead) -> Headers:
        """See :class:`comfygate.gate.site.IGateSite`."""
        return ()

    def _check_origin(self, head: RequestHead) -> None:
        origin = head.get(b"origin")
        if origin is None or same_origin(head.get(b"host"), origin):
            return
        raise GateError(
            403,
            "forbidden_origin",
            "This page may not use this port",
            f"The page comes from {origin.decode('latin-1')}.",
        )

    def _take_token(self, peer: str) -> float:
        key = peer if self.facts.by_client else None
        granted, wait = self._buckets.take(key, self._clock.seconds(), self.facts.max_wait)
        if granted:
            return wait
        raise GateError(
            429,
            "rate_limited",
            "Too many requests to this port",
            f"It takes {self.facts.rate:g} requests a second, and {self.facts.burst:g} at once after a pause.",
            retry_after=wait,
        )

    def _decide(
        self, head: RequestHead, route: Route, peer: str, era: Era | None = None
    ) -> Decision | Deferred[Decision]:
        if head.upgrade == b"websocket":
            return Upgrade(self.bridges.accept(head, lambda: self._home(head, peer).gpu_id))
        if route.control:
            return self._to_control(head, route)
        if self._several and route.kind is Kind.VIEW:
            return self._to_owner(head, route, peer)
        return self._to(self._backend(head, route, peer), route, era)

    def _to_control(self, head: RequestHead, route: Route) -> Relay:
        _check_encoding(head)
        extra = [(GATE_HEADER, self.facts.name.encode("ascii"))]
        upload = route.kind is Kind.UPLOAD
        if upload:
            extra.append((CONTENT_TYPE_HEADER, head.get(b"content-type") or b""))
        return Relay(
            pool=self._control,
            host=b"comfygate",
            only_headers=_FOR_CONTROL,
            extra_headers=tuple(extra),
            max_body=(self.facts.max_body or None) if upload else self.facts.max_prompt,
            backend_timeout=self._patience(route),
            kind=route.kind,
        )

    def _to_owner(self, head: RequestHead, route: Route, peer: str) -> Relay | Deferred[Decision]:
        """A file may lie with one GPU alone; where nobody has it, anyone says so."""
        name = file_of_request(head.target)
        owner = None if name is None else self._places.find(name, self._fleet.ready(self.facts.gpu_ids))
        if not isinstance(owner, Deferred):
            return self._to(owner or self._backend(head, route, peer), route)

        def found(backend: IBackend | None) -> Decision:
            there = backend is not None and backend.state is BackendState.READY
            return self._to(backend if there and backend else self._backend(head, route, peer), route)

        return owner.addCallback(found)

    def _to(self, backend: IBackend, route: Route, era: Era | None = None) -> Relay:
        turn = self._turn(route, backend)
        if era is None or turn is not None:
            return self._relay(backend, route.kind, turn=turn)
        relay = self._relays.get((backend.gpu_id, route.kind))
        if relay is None or relay.pool.closed:
            relay = self._relays[backend.gpu_id, route.kind] = self._relay(backend, route.kind, era=era)
        return relay

    def _relay(self, backend: IBackend, kind: Kind, *, turn: Turn | None = None, era: Era | None = None) -> Relay:
        return Relay(
            pool=self._upstreams.pool(backend),
            host=_authority(backend.address),
            drop_headers=_NOT_PASSED,
            max_body=self.facts.max_body or None,
            backend_timeout=self.facts.backend_timeout,
            kind=kind,
            turn=turn,
            era=era,
        )

    def _backend(self, head: RequestHead, route: Route, peer: str) -> IBackend:
        if route.kind is Kind.USER:
            return self._writer.backend()
        return self._home(head, peer)

    def _home(self, head: RequestHead, peer: str) -> IBackend:
        ready = self._fleet.ready(self.facts.gpu_ids)
        if not ready:
            raise self._fleet.unavailable(self.facts.gpu_ids)
        if len(ready) == 1:
            return ready[0]
        # What a custom node keeps of a client is in one process: that client always comes to the same.
        client = b"\0".join((peer.encode(), head.get(b"user-agent") or b"", head.get(b"comfy-user") or b""))
        chosen = home(client, tuple([backend.gpu_id for backend in ready]))
        return next(backend for backend in ready if backend.gpu_id == chosen)

    def _turn(self, route: Route, backend: IBackend) -> Turn | None:
        """Uploads to our backends take turns; others have an input folder of their own."""
        if route.kind is Kind.UPLOAD and route.method == b"POST" and backend.owned:
            return self._uploads.turn(backend.gpu_id)
        return None

    def _patience(self, route: Route) -> float:
        # That key is about ComfyUI; what we stream ourselves is silent for 15 s where nothing happens.
        return max(self.facts.backend_timeout, _OUR_SILENCE if route.kind is Kind.GATE else 0.0)


def _check_encoding(head: RequestHead) -> None:
    encoding = head.get(b"content-encoding") or b"identity"
    if encoding.lower() != b"identity":
        details = f"It is {encoding.decode('latin-1')}; send it as it is."
        raise GateError(415, "unsupported_encoding", "The body must not be compressed", details)


def _authority(address: tuple[str, int] | None) -> bytes:
    host, port = address or ("127.0.0.1", 0)
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode("ascii")
