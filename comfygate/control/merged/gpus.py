"""Questions to every GPU of a port that serves requests now."""

from __future__ import annotations

from collections.abc import Iterable

from comfygate.backend.asking import Told, ask_at_once
from comfygate.control.books import Books
from comfygate.errors import GateError
from comfygate.model import BackendAnswer

MIB = 1024 * 1024


class AskedGpus:
    """Asks, within a bounded time and a bounded size."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def ask(
        self,
        gpu_ids: Iterable[int],
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        seconds: float,
        rest: float | None = None,
        limit: int = MIB,
    ) -> Told[BackendAnswer]:
        """Put one question to all.

        :param gpu_ids: those of them that are not READY are left out.
        :param target: path and query.
        :param seconds: for all of them; see :func:`comfygate.backend.asking.ask_at_once`, as `rest`.
        :param limit: bytes that each answer may have.
        :raises GateError: 503, if none of them serves requests now.
        """
        gpu_ids = tuple(gpu_ids)
        self._books.fleet.first_ready(gpu_ids)
        questions = {
            backend.gpu_id: backend.client.ask(method, target, body, seconds=seconds, limit=limit)
            for backend in self._books.fleet.ready(gpu_ids)
            if backend.client is not None
        }
        return await ask_at_once(self._books.clock, questions, seconds=seconds, rest=rest)


def silent(what: str, told: Told[BackendAnswer]) -> GateError:
    """No GPU has answered: why."""
    details = "; ".join(f"GPU {gpu_id}: {error}" for gpu_id, error in told.failures.items())
    return GateError(504, "backend_timeout", f"No GPU has answered {what}", details, retry_after=1)
