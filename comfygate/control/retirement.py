"""A backend is ended for good, and no prompt is lost."""

from __future__ import annotations

from comfygate.control.books import Books
from comfygate.control.drains import Drains
from comfygate.interfaces import IBackend
from comfygate.model import BackendState


class Retirement:
    """Lets what a backend runs end; what waits in its own queue comes back to ours."""

    def __init__(self, books: Books, drains: Drains) -> None:
        self._books = books
        self._drains = drains

    async def run(self, gpu_id: int) -> None:
        """Return when the backend is ended, and holds no prompt any more.

        However long what it runs takes; cancelled, it works on.
        """
        backend = self._books.fleet[gpu_id]
        self._books.leaving.add(gpu_id)
        try:
            with self._drains.held(gpu_id):
                await self._books.until(lambda: self._is_idle(backend))
                await backend.stop()
                await self._books.until(lambda: not self._books.ledger.held_by(gpu_id))
        finally:
            self._books.leaving.discard(gpu_id)
        self._drains.forget(gpu_id)

    def _is_idle(self, backend: IBackend) -> bool:
        ledger = self._books.ledger
        # What our own processes held waits again as soon as they are down; with others' it is looked up.
        if backend.owned and backend.state is not BackendState.READY:
            return True
        return not (ledger.held_by(backend.gpu_id) or ledger.running(backend.gpu_id))
