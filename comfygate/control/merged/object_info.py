"""GET /object_info of several GPUs as one, and which of them can run a prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol

import orjson
from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.backend.asking import Told
from comfygate.control.books import Books
from comfygate.control.merged.gpus import MIB, AskedGpus, silent
from comfygate.errors import BackendError, GateError
from comfygate.interfaces import IBackend, IBackendListener
from comfygate.model import BackendAnswer, BackendState
from comfygate.models import listed_files
from comfygate.offers import Comparison, compare

ANSWERING = 60.0
"""Seconds that the first GPU has to answer: it may look through folders on a slow disk."""

REST = 3.0
"""Seconds that the others have once one has answered."""

AGAIN = 10.0
"""Seconds between two rounds of questions that prompts give rise to."""

LIMIT = 64 * MIB
"""Bytes of an answer."""

COMPARED = 8
"""Comparisons that are remembered."""


class InThread(Protocol):
    """Calls a function in a thread."""

    def __call__(self, function: Callable[[], Any]) -> Deferred[Any]:
        """Fires with what it returns."""


@frozen(eq=False)
class _Said:
    """What a GPU said last.  Equal answers are one object, so that they are kept once."""

    digest: bytes
    body: bytes


@implementer(IBackendListener)
class ObjectInfo:
    """Asks all GPUs, merges what differs, and remembers what each of them offers.

    Where all say the same, byte for byte, nothing is merged or copied.  GPUs that
    are in no set of several are not asked.  Which files their loaders offer goes
    to :attr:`Experience.files`, since policies know prompts by them.

    :param in_thread: comparing megabytes takes longer than others should wait.
    """

    _log = Logger()

    def __init__(self, books: Books, in_thread: InThread) -> None:
        self._books = books
        self._gpus = AskedGpus(books)
        self._in_thread = in_thread
        self._said: dict[int, _Said] = {}
        self._comparisons: OrderedDict[tuple[bytes, ...], Comparison] = OrderedDict()
        self._learning: Deferred[None] | None = None
        self._unlearnt: set[int] = set()
        self._doubted = -AGAIN
        self._named: frozenset[bytes] = frozenset()

    async def all(self, gpu_ids: Sequence[int]) -> bytes:
        """GET /object_info, in JSON.

        One that does not answer in time counts with what it said before.

        :raises GateError: 503 or 504, if nobody answers; 502, if they make no sense.
        """
        told = await self._ask(gpu_ids)
        ready = [backend.gpu_id for backend in self._books.fleet.ready(gpu_ids)]
        said = {gpu_id: self._said[gpu_id] for gpu_id in ready if gpu_id in self._said}
        if not said:
            raise silent("/object_info", told)
        return (await self._compared(said.values())).merged if self._differ(said) else next(iter(said.values())).body

    async def one(self, gpu_ids: Sequence[int], target: str) -> BackendAnswer:
        """GET /object_info/{class}.

        :param target: its path, percent-encoded.
        :raises GateError: as :meth:`all`.
        """
        told = await self._gpus.ask(gpu_ids, "GET", target, seconds=ANSWERING, rest=REST, limit=LIMIT)
        answers = [answer for answer in told.answers.values() if answer.status == 200]
        if not told.answers:
            raise silent(target, told)
        if not answers or all(answer.body == answers[0].body for answer in answers):
            return (answers or list(told.answers.values()))[0]
        merged = await self._compare([answer.body for answer in answers])
        return BackendAnswer(200, merged.merged, answers[0].content_type)

    def suitable(self, gpu_ids: tuple[int, ...], prompt: Mapping[str, Any]) -> tuple[int, ...]:
        """Those GPUs that can run a prompt, as far as they have said what they offer.

        :param prompt: nodes by id.
        :return: all of `gpu_ids` if it is none of them: ComfyUI says best what is missing.
        """
        known = {gpu_id: self._said[gpu_id] for gpu_id in gpu_ids if gpu_id in self._said}
        if not self._differ(known):
            return gpu_ids
        found = self._comparisons.get(self._key(self._said.values()))
        if found is None:  # a GPU has come or gone since
            self.learn(known)
            return gpu_ids
        fits = dict(zip(self._key(self._said.values()), found.suitable(prompt), strict=True))
        return tuple(n for n in gpu_ids if n not in known or fits[known[n].digest]) or gpu_ids

    def alike(self, gpu_id: int, others: Iterable[int]) -> bool:
        """Whether a GPU offers what others do, as far as they have said so."""
        said = [self._said[n].digest for n in (gpu_id, *others) if n in self._said]
        return gpu_id not in self._said or len(set(said)) < 2

    def learn(self, gpu_ids: Iterable[int]) -> None:
        """Ask these GPUs soon what they offer."""
        self._unlearnt.update(gpu_id for gpu_id in gpu_ids if self._is_shared(gpu_id))
        if self._learning is None and self._unlearnt:
            self._learning = Deferred.fromCoroutine(self._learn())
            self._learning.addBoth(self._learnt)

    def doubt(self, gpu_ids: Iterable[int]) -> None:
        """Something is not where it was said to be: ask again, but not with every wrong prompt."""
        now = self._books.clock.seconds()
        if now >= self._doubted + AGAIN:
            self._doubted = now
            self.learn(gpu_ids)

    def stop(self) -> None:
        """Ask no more."""
        self._unlearnt.clear()
        if self._learning is not None:
            self._learning.cancel()

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        if backend.state is BackendState.READY:
            self.learn((backend.gpu_id,))

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    def _is_shared(self, gpu_id: int) -> bool:
        return any(gpu_id in gate.gpu_ids and len(gate.gpu_ids) > 1 for gate in self._books.gates.values())

    async def _learn(self) -> None:
        while self._unlearnt:
            asked, self._unlearnt = self._unlearnt, set()
            before = {said.digest for gpu_id, said in self._said.items() if gpu_id not in asked}
            await self._ask(sorted(asked))
            new = {self._said[gpu_id].digest for gpu_id in asked if gpu_id in self._said}
            others = [gpu_id for gpu_id in self._said if gpu_id not in asked and self._is_shared(gpu_id)]
            if others and not new <= before:
                # Files may have come since the others were asked: only answers of one moment can be compared.
                await self._ask(sorted({*asked, *others}))
            await self._name_files()

    async def _name_files(self) -> None:
        """Learn the names of files from what has not been read for that."""
        bodies = {said.digest: said.body for said in self._said.values()}
        for digest in bodies.keys() - self._named:
            self._books.experience.files |= await self._in_thread(partial(_files, bodies[digest]))
        self._named = frozenset(bodies)

    def _learnt(self, result: Failure | None) -> None:
        self._learning = None
        if isinstance(result, Failure) and result.check(CancelledError, BackendError, GateError) is None:
            self._log.failure("asking what GPUs offer", result)

    async def _ask(self, gpu_ids: Iterable[int]) -> Told[BackendAnswer]:
        told = await self._gpus.ask(gpu_ids, "GET", "/object_info", seconds=ANSWERING, rest=REST, limit=LIMIT)
        for gpu_id, error in told.failures.items():
            self._log.info("GPU {gpu_id} does not say what it offers: {error}", gpu_id=gpu_id, error=error)
        for gpu_id, answer in told.answers.items():
            if answer.status == 200:
                self._note(gpu_id, answer.body)
        for gpu_id in [gpu_id for gpu_id in self._said if gpu_id not in self._books.fleet]:
            del self._said[gpu_id]
        if self._differ(self._said):
            await self._compared(self._said.values())
        return told

    def _note(self, gpu_id: int, body: bytes) -> None:
        digest = blake2b(body, digest_size=16).digest()
        same = next((said for said in self._said.values() if said.digest == digest), None)
        self._said[gpu_id] = same or _Said(digest, body)
        self._said = dict(sorted(self._said.items()))

    def _differ(self, said: Mapping[int, _Said]) -> bool:
        return len({one.digest for one in said.values()}) > 1

    def _key(self, said: Iterable[_Said]) -> tuple[bytes, ...]:
        return tuple(dict.fromkeys(one.digest for one in said))

    async def _compared(self, said: Iterable[_Said]) -> Comparison:
        said = tuple(said)
        key = self._key(said)
        found = self._comparisons.get(key)
        if found is None:
            bodies = {one.digest: one.body for one in said}
            found = await self._compare([bodies[digest] for digest in key])
            self._comparisons[key] = found
            while len(self._comparisons) > COMPARED:
                self._comparisons.popitem(last=False)
        else:
            self._comparisons.move_to_end(key)
        return found

    async def _compare(self, bodies: list[bytes]) -> Comparison:
        try:
            found: Comparison = await self._in_thread(lambda: compare(bodies))
        except ValueError as error:
            message = "A GPU answered /object_info with something else"
            raise GateError(502, "backend_failed", message, str(error), retry_after=5) from None
        return found


def _files(body: bytes) -> frozenset[str]:
    try:
        return listed_files(orjson.loads(body))
    except orjson.JSONDecodeError:
        return frozenset()
