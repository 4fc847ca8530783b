"""The control plane's routes, one table; answered to the gates and on the control socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import evolve, field, frozen
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from comfygate.backend.readings import Readings
from comfygate.control.accept import Acceptance
from comfygate.control.assets import StatusPage
from comfygate.control.books import Books
from comfygate.control.events import Events
from comfygate.control.fields import body_of, deleted_in, object_of, text_in, whole_number_of
from comfygate.control.histories import Histories
from comfygate.control.interrupt import Interrupts
from comfygate.control.listings import Listings
from comfygate.control.merged.routes import MergedRoutes
from comfygate.control.metrics import Metrics
from comfygate.control.operator import OperatorRoutes
from comfygate.control.replies import Reply, Stream, respond
from comfygate.control.status import Status
from comfygate.errors import GateError
from comfygate.gate.gate import GATE_HEADER
from comfygate.routes import plain_path
from comfygate.routing.assignment import GateRouting

Endpoint = Callable[[GateRouting, Request], Awaitable[Reply | Stream]]

_JSON_OF_NOW = ((b"Content-Type", b"application/json; charset=utf-8"), (b"Cache-Control", b"no-store"))


@frozen
class Control:
    """What the routes answer with.

    :ivar operations: what only the operator may ask for.
    :ivar merged: what several GPUs answer as one.
    """

    books: Books
    acceptance: Acceptance
    listings: Listings
    histories: Histories
    interrupts: Interrupts
    status: Status
    events: Events
    readings: Readings
    metrics: Metrics
    operations: OperatorRoutes
    merged: MergedRoutes
    page: StatusPage = field(factory=StatusPage.load)

    def endpoint(self, method: bytes, path: bytes) -> Endpoint:
        """Who answers a request.

        :raises GateError: 404 for a path that the control plane doesn't have.
        """
        table: dict[tuple[bytes, bytes], Endpoint] = {
            (b"GET", b"/prompt"): self.get_prompt,
            (b"POST", b"/prompt"): self.post_prompt,
            (b"GET", b"/queue"): self.get_queue,
            (b"POST", b"/queue"): self.post_queue,
            (b"GET", b"/queue/all"): self.get_queue_all,
            (b"POST", b"/interrupt"): self.post_interrupt,
            (b"GET", b"/history"): self.get_histories,
            (b"POST", b"/history"): self.post_history,
            (b"GET", b"/comfygate/status"): self.get_status,
            (b"GET", b"/comfygate/events"): self.get_events,
            (b"GET", b"/comfygate/metrics"): self.get_metrics,
            (b"GET", b"/metrics"): self.get_metrics,
        }
        found = table.get((b"GET" if method == b"HEAD" else method, path))
        if found is None and path.startswith(b"/history/") and method in (b"GET", b"HEAD"):
            found = self.get_history
        if found is None and path in self.page and method in (b"GET", b"HEAD"):
            found = self.page.get
        if found is None:
            found = self.merged.endpoint(method, path) or self.operations.endpoint(method, path)
        if found is None:
            raise GateError(404, "not_found", f"There is no {path.decode(errors='replace')} here")
        return found

    async def get_prompt(self, gate: GateRouting, request: Request) -> Reply:
        """GET /prompt: how many prompts run or wait."""
        return Reply.json({"exec_info": {"queue_remaining": self.listings.remaining(gate)}})

    async def post_prompt(self, gate: GateRouting, request: Request) -> Reply:
        """POST /prompt: queue a prompt."""
        pin = request.getHeader("X-Target-GPU")
        answer = await self.acceptance.submit(gate, body_of(request), pin)
        return Reply.text((answer.body,), answer.status)

    async def get_queue(self, gate: GateRouting, request: Request) -> Reply:
        """GET /queue: the gate's queue."""
        return Reply.text(self.listings.queue(gate))

    async def get_queue_all(self, gate: GateRouting, request: Request) -> Reply:
        """GET /queue/all: every GPU's queue, the same on every port."""
        return Reply.text(self.listings.all())

    async def post_queue(self, gate: GateRouting, request: Request) -> Reply:
        """POST /queue ``{"clear": true}`` or ``{"delete": [ids]}``: as ComfyUI, 200 without a body."""
        wanted = object_of(request)
        if wanted.get("clear"):
            await self.interrupts.remove_pending(gate, None)
        delete = deleted_in(wanted)
        if delete:
            await self.interrupts.remove_pending(gate, delete)
        await self.books.noted()
        return Reply()

    async def post_interrupt(self, gate: GateRouting, request: Request) -> Reply:
        """POST /interrupt ``{"prompt_id": id}``, or without one whatever runs here."""
        wanted = object_of(request)
        prompt_id, client_id = text_in(wanted, "prompt_id"), text_in(wanted, "client_id")
        if prompt_id:
            found = await self.interrupts.prompt(prompt_id)
            await self.books.noted()
            return Reply.json({"prompt_id": found.prompt_id, "gpu_id": found.gpu_id, "state": found.state})
        if client_id and len(gate.gpu_ids) > 1:
            await self.interrupts.client(gate, client_id)
        else:
            await self.interrupts.running(gate)
        return Reply()

    async def get_history(self, gate: GateRouting, request: Request) -> Reply:
        """GET /history/{id}: how a prompt ended; ``{}`` if it has not, or nobody knows it."""
        prompt_id = plain_path(request.path).removeprefix(b"/history/").decode(errors="replace")
        return Reply.text(await self.histories.one(gate, prompt_id))

    async def get_histories(self, gate: GateRouting, request: Request) -> Reply:
        """GET /history?max_items&offset: how prompts ended, by id, the newest last."""
        most, offset = (whole_number_of(request, name) for name in ("max_items", "offset"))
        return Reply.text(await self.histories.newest(gate, most, offset))

    async def post_history(self, gate: GateRouting, request: Request) -> Reply:
        """POST /history ``{"clear": true}`` or ``{"delete": [ids]}``: as ComfyUI, 200 without a body."""
        wanted = object_of(request)
        if wanted.get("clear"):
            await self.histories.forget(gate, None)
        delete = deleted_in(wanted)
        if delete:
            await self.histories.forget(gate, delete)
        return Reply()

    async def get_status(self, gate: GateRouting, request: Request) -> Reply:
        """GET /comfygate/status: everything at a glance, the same on every port."""
        await self.readings.refresh()
        encoded = self.status.dated(self.status.encoded())
        return evolve(Reply.text((encoded,)), headers=_JSON_OF_NOW)

    async def get_events(self, gate: GateRouting, request: Request) -> Stream:
        """GET /comfygate/events: the status, again and again."""
        return self.events.stream()

    async def get_metrics(self, gate: GateRouting, request: Request) -> Reply:
        """GET /metrics: everything that is counted, the same on every port."""
        await self.readings.refresh()
        accept = request.getHeader("Accept") or ""
        body, content_type = self.metrics.text(accept)
        return Reply(200, (body,), ((b"Content-Type", content_type), (b"Cache-Control", b"no-store")))


class Root(Resource):
    """Every request to the control plane."""

    isLeaf = True

    def __init__(self, control: Control) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._control = control

    def render(self, request: Request) -> int:
        """Answer later."""
        respond(request, self._answer(request))
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> Reply | Stream:
        endpoint = self._control.endpoint(request.method, plain_path(request.path))
        return await endpoint(self._gate(request), request)

    def _gate(self, request: Request) -> GateRouting:
        name = request.getHeader(GATE_HEADER)
        if name is None:
            return self._control.books.everything
        gate = self._control.books.gates.get(name.decode("ascii") if isinstance(name, bytes) else name)
        if gate is None:
            raise GateError(503, "port_closed", "This port is being closed", "It is not in the configuration any more.")
        return gate


class QuietSite(Site):
    """A site without an access log."""

    noisy = False

    def logPrefix(self) -> str:
        """What the log calls it."""
        return "control plane"

    def log(self, request: Request) -> None:
        """Write nothing."""


def make_site(control: Control) -> Site:
    """The control plane as a protocol factory."""
    site = QuietSite(Root(control), timeout=None)  # type: ignore[no-untyped-call]
    site.displayTracebacks = False
    return site
