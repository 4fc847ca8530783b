"""How prompts ended, as clients ask for it: from the journal, and from ComfyUI what that does not have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from attrs import frozen

from comfygate.aliases import with_owner
from comfygate.control.books import Books
from comfygate.errors import BackendError, GateError, JournalError
from comfygate.history import encoded, ended_at
from comfygate.interfaces import IBackend, IJournal
from comfygate.routing.assignment import GateRouting


@frozen
class _Entry:
    """One entry of a history.

    :ivar ended: in seconds since 1970.
    :ivar text: its JSON.
    """

    prompt_id: str
    ended: float
    text: bytes


class Histories:
    """Answers for GET and POST /history of every port.

    What ends on a ComfyUI of our own is in the journal a moment later; asked
    itself is it only about prompts whose last event was just seen.  Others'
    ComfyUIs also run what did not come through us, and are always asked.
    """

    def __init__(self, books: Books, journal: IJournal) -> None:
        self._books = books
        self._ledger = books.ledger
        self._journal = journal

    async def one(self, gate: GateRouting, prompt_id: str) -> Iterator[bytes]:
        """GET /history/{id}: ``{id: entry}``, or ``{}`` if the prompt has not ended or is not known on these GPUs.

        :return: JSON in pieces.
        :raises GateError: 502 or 503, if who should know cannot be asked now.
        """
        entry = await self._one(gate, prompt_id)
        return iter((b"{}",)) if entry is None else self._object(gate, [_Entry(prompt_id, 0.0, entry)])

    async def newest(self, gate: GateRouting, most: int | None, offset: int | None) -> Iterator[bytes]:
        """GET /history: entries by id, the newest last.

        :param most: how many, the newest if there is no `offset`; ``None`` for all.
        :param offset: how many of the oldest to leave out.
        :return: JSON in pieces.
        :raises GateError: 502 or 503, as :meth:`one`.
        """
        wanted = most if offset is None or offset < 0 else None
        try:
            kept = await self._journal.histories(gate.gpu_ids, wanted)
        except JournalError as error:
            raise _unreadable(error) from None
        found = {prompt_id: _Entry(prompt_id, ended, text) for prompt_id, ended, text in kept}
        for backend in self._books.fleet.ready(gate.gpu_ids):
            for entry in await self._of_backend(backend, wanted):
                found.setdefault(entry.prompt_id, entry)
        entries = sorted(found.values(), key=lambda entry: entry.ended)
        return self._object(gate, _cut(entries, most, offset))

    def _object(self, gate: GateRouting, entries: Iterable[_Entry]) -> Iterator[bytes]:
        show = self._books.aliases.concealed if gate.merges else bytes
        separator = b"{"
        for entry in entries:
            yield separator + orjson.dumps(entry.prompt_id) + b":"
            yield show(entry.text)
            separator = b","
        yield b"{}" if separator == b"{" else b"}"

    async def forget(self, gate: GateRouting, prompt_ids: Iterable[str] | None) -> None:
        """POST /history: drop these entries, or all, of the gate's GPUs.

        :raises GateError: 502 or 503, if something may be left.
        """
        prompt_ids = None if prompt_ids is None else tuple(prompt_ids)
        try:
            for backend in self._books.fleet.ready(gate.gpu_ids):
                await self._books.fleet.client(backend.gpu_id).forget(prompt_ids)
            await self._journal.forget_histories(gate.gpu_ids, prompt_ids)
        except JournalError as error:
            raise _unreadable(error) from None
        except BackendError as error:
            raise GateError(502, "backend_failed", "A GPU kept its history", str(error), retry_after=1) from None

    async def _one(self, gate: GateRouting, prompt_id: str) -> bytes | None:
        held, ended = self._ledger.held(prompt_id), self._ledger.ended(prompt_id)
        gpu_id = held.gpu_id if held else ended.gpu_id if ended else None
        if prompt_id in self._ledger.waiting or gpu_id not in (None, *gate.gpu_ids):
            return None
        entry = None if held else await self._kept(prompt_id)
        for backend in self._books.fleet.ready(gate.gpu_ids if gpu_id is None else (gpu_id,)):
            entry = entry or await self._ask(backend, prompt_id)
        return entry

    async def _kept(self, prompt_id: str) -> bytes | None:
        try:
            return await self._journal.history(prompt_id)
        except JournalError as error:
            raise _unreadable(error) from None

    async def _ask(self, backend: IBackend, prompt_id: str) -> bytes | None:
        try:
            entry = await self._books.fleet.client(backend.gpu_id).history(prompt_id)
        except BackendError as error:
            raise _silent(backend, error) from None
        return None if entry is None else self._encoded(entry)

    def _encoded(self, entry: dict[str, Any]) -> bytes:
        return encoded(with_owner(entry, self._books.aliases.owner(entry)))

    async def _of_backend(self, backend: IBackend, newest: int | None) -> list[_Entry]:
        if backend.owned and self._journal.lasting:
            held = (one.job.prompt_id for one in self._ledger.held_by(backend.gpu_id))
            ids = [prompt_id for prompt_id in held if self._ledger.is_finished(prompt_id)]
            found = [(prompt_id, await self._ask(backend, prompt_id)) for prompt_id in ids]
            return [_Entry(prompt_id, math.inf, text) for prompt_id, text in found if text is not None]
        try:
            listed = await self._books.fleet.client(backend.gpu_id).histories(newest)
        except BackendError as error:
            raise _silent(backend, error) from None
        return [_Entry(prompt_id, ended_at(entry), self._encoded(entry)) for prompt_id, entry in listed.items()]


def _cut(entries: list[_Entry], most: int | None, offset: int | None) -> list[_Entry]:
    """What ComfyUI's ``get_history`` takes: from `offset` on, or the newest `most`."""
    if offset is None or offset < 0:
        return entries if most is None else entries[max(0, len(entries) - most) :]
    return entries[offset:] if most is None else entries[offset : offset + most]


def _silent(backend: IBackend, error: BackendError) -> GateError:
    message = f"GPU {backend.gpu_id} did not tell its history"
    return GateError(502, "backend_failed", message, str(error), retry_after=1)


def _unreadable(error: JournalError) -> GateError:
    return GateError(503, "journal_failed", "The journal cannot be asked now", str(error), retry_after=5)
