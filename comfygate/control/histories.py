"""How prompts ended, as clients ask for it: from the journal, and from ComfyUI what that does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import orjson
from attrs import frozen
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.task import deferLater

from comfygate.aliases import with_owner
from comfygate.backend.asking import ask_at_once
from comfygate.control.books import Books
from comfygate.errors import BackendError, GateError, JournalError
from comfygate.history import encoded, ended_at, outcome
from comfygate.interfaces import IBackend, IJournal
from comfygate.ledger import Held
from comfygate.routing.assignment import GateRouting

_NOTING, _PAUSE = 2.0, 0.01
"""Seconds in which ComfyUI notes an end that it has told, and between two questions about it."""

_ASKING = 30.0
"""Seconds that ComfyUIs have to tell their histories."""


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

    :ivar forgotten: called when entries were dropped: of these GPUs, these or all.
    """

    def __init__(self, books: Books, journal: IJournal) -> None:
        self._books = books
        self._ledger = books.ledger
        self._journal = journal
        self.forgotten: Callable[[tuple[int, ...], tuple[str, ...] | None], None] = lambda gpu_ids, prompt_ids: None

    async def one(self, gate: GateRouting, prompt_id: str) -> Iterator[bytes]:
        """GET /history/{id}: ``{id: entry}``, or ``{}`` if the prompt has not ended or is not known on these GPUs.

        :return: JSON in pieces.
        :raises GateError: 502 or 503, if who should know cannot be asked now.
        """
        entry = await self.entry(gate, prompt_id)
        return iter((b"{}",)) if entry is None else self._object(gate, [_Entry(prompt_id, 0.0, entry)])

    async def entry(self, gate: GateRouting, prompt_id: str) -> bytes | None:
        """How a prompt ended, in JSON; ``None`` if it has not, or is not known on these GPUs.

        Between its acceptance and its end a prompt is listed, and from its end on it is here: one that ends while
        ComfyUI is asked is asked for once more.

        :raises GateError: 502 or 503, if who should know cannot be asked now.
        """
        going = self._is_going(prompt_id)
        if going:
            self._books.polled.asked(prompt_id)
        entry = await self._one(gate, prompt_id)
        if entry is None and going and not self._is_going(prompt_id):
            entry = await self._one(gate, prompt_id)
        held = self._ledger.held(prompt_id)
        if entry is None and held is not None and held.gpu_id in gate.gpu_ids:
            entry = await self._awaited(prompt_id)
        if entry is not None:
            self._books.polled.told(prompt_id)
        return entry

    async def _awaited(self, prompt_id: str) -> bytes | None:
        """The entry of a prompt whose end was told; ``None`` if there is no such prompt, or nothing is known of it.

        ComfyUI tells the end of a prompt shortly before it notes it, and we list it no more from then on.
        """
        until = self._books.clock.seconds() + _NOTING
        while self._ledger.is_finished(prompt_id):
            held = self._ledger.held(prompt_id)
            if held is None:
                break
            entry = await self._ask(self._books.fleet[held.gpu_id], prompt_id)
            if entry is not None:
                self._note_end(held, entry)
                return entry
            if self._books.clock.seconds() >= until:
                told = self._books.last_words.entry(held.job)
                return None if told is None else encoded(told)
            await deferLater(self._books.clock, _PAUSE)
        return await self._kept(prompt_id) if self._ledger.ended(prompt_id) else None

    def _is_going(self, prompt_id: str) -> bool:
        return prompt_id in self._ledger.waiting or self._ledger.held(prompt_id) is not None

    async def newest(self, gate: GateRouting, most: int | None, offset: int | None) -> Iterator[bytes]:
        """GET /history: entries by id, the newest last, in JSON in pieces; see :meth:`entries`."""
        return self._object(gate, await self._entries(gate, most, offset))

    async def entries(self, gate: GateRouting, most: int | None, offset: int | None) -> list[tuple[str, bytes]]:
        """How prompts ended on a gate's GPUs, the newest last: (prompt_id, entry in JSON).

        :param most: how many, the newest if there is no `offset`; ``None`` for all.
        :param offset: how many of the oldest to leave out.
        :raises GateError: 502 or 503, as :meth:`one`.
        """
        return [(entry.prompt_id, entry.text) for entry in await self._entries(gate, most, offset)]

    async def _entries(self, gate: GateRouting, most: int | None, offset: int | None) -> list[_Entry]:
        wanted = most if offset is None or offset < 0 else None
        held = self._held_on(gate)
        try:
            kept = await self._journal.histories(gate.gpu_ids, wanted)
        except JournalError as error:
            raise _unreadable(error) from None
        found = {prompt_id: _Entry(prompt_id, ended, text) for prompt_id, ended, text in kept}
        questions = {one.gpu_id: self._of_backend(one, wanted) for one in self._books.fleet.ready(gate.gpu_ids)}
        told = await ask_at_once(self._books.clock, questions, seconds=_ASKING)
        for gpu_id, failure in told.failures.items():
            raise _silent(gpu_id, failure)
        for entry in chain.from_iterable(told.answers.values()):
            found.setdefault(entry.prompt_id, entry)
        # Whatever has ended meanwhile is listed no more, and may be in none of the answers.
        for entry in await self._late(gate, [one for one in held | self._held_on(gate) if one not in found]):
            found[entry.prompt_id] = entry
        entries = sorted(found.values(), key=lambda entry: entry.ended)
        return _cut(entries, most, offset)

    async def _late(self, gate: GateRouting, prompt_ids: list[str]) -> list[_Entry]:
        """The entries of those of these prompts whose end was told; all are waited for at the same time."""
        waiting = [Deferred.fromCoroutine(self._awaited(prompt_id)) for prompt_id in prompt_ids]
        try:
            texts = await gatherResults(waiting, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()
        return [_Entry(one, math.inf, text) for one, text in zip(prompt_ids, texts, strict=True) if text is not None]

    def _held_on(self, gate: GateRouting) -> dict[str, None]:
        """The prompts that those of a gate's GPUs hold that can be asked, in order."""
        ready = self._books.fleet.ready(gate.gpu_ids)
        return {held.job.prompt_id: None for one in ready for held in self._ledger.held_by(one.gpu_id)}

    def _object(self, gate: GateRouting, entries: Iterable[_Entry]) -> Iterator[bytes]:
        separator = b"{"
        for entry in entries:
            yield separator + orjson.dumps(entry.prompt_id) + b":"
            yield self._books.shown(gate, entry.text)
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
            self.forgotten(gate.gpu_ids, prompt_ids)
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
        if entry is not None:
            return entry
        entry = await self._asked_of(gate.gpu_ids if gpu_id is None else (gpu_id,), prompt_id)
        if held is not None and entry is not None:
            self._note_end(held, entry)
        return entry

    def _note_end(self, held: Held, entry: bytes) -> None:
        """ComfyUI moves a prompt from its queue to its history in one step: what is here is in every listing now."""
        now = self._ledger.held(held.job.prompt_id)
        if now is not None and (now.gpu_id, now.job.attempts) == (held.gpu_id, held.job.attempts):
            try:
                end = outcome(orjson.loads(entry))
            except orjson.JSONDecodeError:  # it holds NaN: whoever looks next notes it
                return
            self._ledger.end(held.job.prompt_id, end.state, end.reason, entry)
            self._books.changed()

    async def _asked_of(self, gpu_ids: Iterable[int], prompt_id: str) -> bytes | None:
        """What those of these GPUs say that serve requests now; they are asked at the same time."""
        backends = self._books.fleet.ready(gpu_ids)
        if len(backends) == 1:
            return await self._ask(backends[0], prompt_id)
        questions = {one.gpu_id: one.client.history(prompt_id) for one in backends if one.client is not None}
        told = await ask_at_once(self._books.clock, questions, seconds=_ASKING, rest=0)
        for entry in told.answers.values():
            if entry is not None:
                return self._encoded(entry)
        for gpu_id, error in told.failures.items():
            raise _silent(gpu_id, error)
        return None

    async def _kept(self, prompt_id: str) -> bytes | None:
        try:
            return await self._journal.history(prompt_id)
        except JournalError as error:
            raise _unreadable(error) from None

    async def _ask(self, backend: IBackend, prompt_id: str) -> bytes | None:
        try:
            entry = await self._books.fleet.client(backend.gpu_id).history(prompt_id)
        except BackendError as error:
            raise _silent(backend.gpu_id, error) from None
        return None if entry is None else self._encoded(entry)

    def _encoded(self, entry: dict[str, Any]) -> bytes:
        return encoded(with_owner(entry, self._books.aliases.owner(entry)))

    async def _of_backend(self, backend: IBackend, newest: int | None) -> list[_Entry]:
        """What a backend has, and the journal has not yet, or does not keep."""
        listed: dict[str, dict[str, Any]] = {}
        if not (backend.owned and self._journal.lasting):
            listed = await self._books.fleet.client(backend.gpu_id).histories(newest)
        return [_Entry(prompt_id, ended_at(entry), self._encoded(entry)) for prompt_id, entry in listed.items()]


def _cut(entries: list[_Entry], most: int | None, offset: int | None) -> list[_Entry]:
    """What ComfyUI's ``get_history`` takes: from `offset` on, or the newest `most`."""
    if offset is None or offset < 0:
        return entries if most is None else entries[max(0, len(entries) - most) :]
    return entries[offset:] if most is None else entries[offset : offset + most]


def _silent(gpu_id: int, error: BackendError) -> GateError:
    message = f"GPU {gpu_id} did not tell its history"
    return GateError(502, "backend_failed", message, str(error), retry_after=1)


def _unreadable(error: JournalError) -> GateError:
    return GateError(503, "journal_failed", "The journal cannot be asked now", str(error), retry_after=5)
