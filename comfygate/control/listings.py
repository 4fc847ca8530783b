"""What runs and waits, as clients ask for it.

Every job carries its JSON, so that a listing is made of pieces and nothing is
encoded again, however long the queue is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import orjson
from attrs import evolve

from comfygate.control.books import Books
from comfygate.control.replies import joined
from comfygate.interfaces import IBackend
from comfygate.ledger import Listing
from comfygate.model import Job
from comfygate.routing.assignment import GateRouting


class Listings:
    """Queues.

    :param ports: the port that each GPU answers on.
    """

    def __init__(self, books: Books, ports: Mapping[int, int]) -> None:
        self._books = books
        self._ledger = books.ledger
        self._ports = ports

    def remaining(self, gate: GateRouting) -> int:
        """How many prompts run or wait on a gate's GPUs.

        :raises GateError: 503 if none of them serves requests now.
        """
        self._books.fleet.first_ready(gate.gpu_ids)
        return sum(self._ledger.remaining(gpu_id) for gpu_id in gate.gpu_ids)

    def queue(self, gate: GateRouting) -> Iterator[bytes]:
        """GET /queue: ``{"queue_running": […], "queue_pending": […]}``, in the order in which they run.

        Then follows where they are: ``gpu_id`` on a GPU's port, ``gpu_ids`` by prompt_id over several.  Only on a GPU's
        port it shows whose prompts they are.  Also while none of its GPUs serves requests: the jobs that wait for one
        are with us.

        :return: JSON in pieces.
        """
        where: dict[str, object]
        if len(gate.gpu_ids) == 1:
            where = {"gpu_id": gate.gpu_ids[0]}
        else:
            owners = self._ledger.owners(gate.gpu_ids)
            owners.update((job.prompt_id, gpu_id) for gpu_id in gate.gpu_ids for job in self._lingering(gpu_id))
            where = {"gpu_ids": owners}
        return self._queue(self._listing(*gate.gpu_ids), where, partial(self._books.shown, gate))

    def _queue(self, listing: Listing, where: dict[str, object], show: Callable[[bytes], bytes]) -> Iterator[bytes]:
        yield b'{"queue_running":'
        yield from joined(map(show, listing.running))
        yield b',"queue_pending":'
        yield from joined(map(show, listing.pending))
        yield b"," + orjson.dumps(where)[1:]

    def _lingering(self, gpu_id: int) -> tuple[Job, ...]:
        return self._books.polled.lingering(gpu_id)

    def _listing(self, *gpu_ids: int) -> Listing:
        listing = self._ledger.listing(*gpu_ids)
        over = tuple(job.item for gpu_id in gpu_ids for job in self._lingering(gpu_id))
        return evolve(listing, running=over + listing.running) if over else listing

    def all(self) -> Iterator[bytes]:
        """GET /queue/all: the queue of every GPU, whether it answers or not, and the totals.

        The same on every port, and so without anybody's client_id.
        """
        backends = tuple(self._books.fleet)  # some may be gone before the last piece is read
        listings = {backend.gpu_id: self._ledger.listing(backend.gpu_id) for backend in backends}
        yield b'{"queues":['
        for index, backend in enumerate(backends):
            yield b"," if index else b""
            yield from self._one_of_all(backend, listings[backend.gpu_id])
        totals = {
            "total_running": sum(len(listing.running) for listing in listings.values()),
            "total_pending": sum(len(listing.pending) for listing in listings.values()),
        }
        yield b"]," + orjson.dumps(totals)[1:]

    def _one_of_all(self, backend: IBackend, listing: Listing) -> Iterator[bytes]:
        facts = {
            "gpu_id": backend.gpu_id,
            "state": backend.state.value,
            "port": self._ports.get(backend.gpu_id),
            "device": backend.device,
            "name": backend.name,
            "running_count": len(listing.running),
            "pending_count": len(listing.pending),
        }
        yield orjson.dumps(facts)[:-1]
        yield b',"queue_running":'
        yield from joined(map(self._books.aliases.concealed, listing.running))
        yield b',"queue_pending":'
        yield from joined(map(self._books.aliases.concealed, listing.pending))
        yield b"}"
