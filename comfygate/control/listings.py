"""What runs and waits, as clients ask for it.

Every job carries its JSON, so that a listing is made of pieces and nothing is
encoded again, however long the queue is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import orjson

from comfygate.control.books import Books
from comfygate.control.replies import joined
from comfygate.interfaces import IBackend
from comfygate.ledger import Listing
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
        """GET /queue: ``{"queue_running": […], "queue_pending": […]}``, and ``gpu_id`` on a GPU's port.

        Only there it shows whose prompts they are.

        Also while none of its GPUs serves requests: the jobs that wait for one are with us.

        :return: JSON in pieces.
        """
        listings = [self._ledger.listing(gpu_id) for gpu_id in gate.gpu_ids]
        return self._queue(listings, gate.gpu_ids, self._books.aliases.concealed if gate.merges else bytes)

    def _queue(
        self, listings: list[Listing], gpu_ids: tuple[int, ...], show: Callable[[bytes], bytes]
    ) -> Iterator[bytes]:
        yield b'{"queue_running":'
        yield from joined(map(show, (item for listing in listings for item in listing.running)))
        yield b',"queue_pending":'
        yield from joined(map(show, (item for listing in listings for item in listing.pending)))
        yield b',"gpu_id":%d}' % gpu_ids[0] if len(gpu_ids) == 1 else b"}"

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
