"""Which prompts of which clients are under way, and which ends their clients have missed.

Only of prompts that backends know under an alias, see :mod:`comfygate.aliases`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

from attrs import define, field, frozen
from zope.interface import implementer

from comfygate.aliases import Aliases
from comfygate.interfaces import IJobListener
from comfygate.ledger import Ledger
from comfygate.model import Job, JobState
from comfygate.outbox import MIB, Message
from comfygate.stream.endings import ending

Ends = list[tuple[str, Sequence[Message]]]

_MOST_ABSENT = 1_000
"""Clients without a socket for whom ends are kept."""

_MOST_ENDS = 64
"""Ends that are kept for one of them."""

_MOST_BYTES = 16 * MIB
"""Bytes that are kept for all of them."""

_LONGEST_ABSENCE = 600.0
"""Seconds for which they are."""


@frozen
class Change:
    """What has happened to a prompt.

    :ivar ending: its last messages, once it has ended; ``None`` if it waits again.
    :ivar gpu_id: the GPU that held it last, if one did.
    :ivar told: whether its ComfyUI has told its end, or may be about to.
    """

    prompt_id: str
    ending: Sequence[Message] | None
    gpu_id: int | None
    told: bool


@define
class _Absent:
    since: float
    size: int
    ends: OrderedDict[str, Sequence[Message]] = field(factory=OrderedDict)


@define
class _Client:
    """One with prompts under way, or with a socket.

    :ivar prompts: ids, and the GPU that runs each, if one does.
    """

    prompts: dict[str, int | None] = field(factory=dict)
    told: list[Callable[[Change], None]] = field(factory=list)


@implementer(IJobListener)
class Roll:
    """Listens to the ledger.

    :param now: seconds on the daemon's clock.
    :param wall_clock: seconds since 1970.
    :ivar version: changes whenever a queue has changed in a way that ComfyUI
        tells its clients of.
    """

    def __init__(
        self, ledger: Ledger, aliases: Aliases, now: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        self.version = 0
        self.aliases = aliases
        self._ledger = ledger
        self._now = now
        self._wall_clock = wall_clock
        self._clients: dict[str, _Client] = {}
        self._whose: dict[str, str] = {}
        self._absent: OrderedDict[str, _Absent] = OrderedDict()
        self._kept = 0  # bytes

    def owns(self, client_id: str, prompt_id: str) -> bool:
        """Whether a prompt is this client's, and has not ended."""
        return self._whose.get(prompt_id) == client_id

    def prompts(self, client_id: str) -> Iterator[str]:
        """A client's prompts whose last event was not seen."""
        client = self._clients.get(client_id)
        for prompt_id in () if client is None else client.prompts:
            if not self._ledger.is_finished(prompt_id):
                yield prompt_id

    def runs(self, client_id: str, gpu_id: int) -> str | None:
        """The prompt that runs on a GPU, if it is this client's."""
        running = self._ledger.running(gpu_id)
        return running.prompt_id if running is not None and self.owns(client_id, running.prompt_id) else None

    # Sockets.

    def listen(self, client_id: str, told: Callable[[Change], None]) -> Ends:
        """A client has a socket.

        :param told: called with every change of its prompts, in the middle of
            a change: it only takes note.
        :return: what it has missed since it had one.
        """
        self._clients.setdefault(client_id, _Client()).told.append(told)
        absent = self._drop(client_id)
        if absent is None or self._now() - absent.since > _LONGEST_ABSENCE:
            return []
        return list(absent.ends.items())

    def leave(self, client_id: str, told: Callable[[Change], None], untold: Ends) -> None:
        """A client has it no more.

        :param untold: ends of which it may not know.
        """
        client = self._clients[client_id]
        client.told.remove(told)
        if client.told:
            return
        self._absent[client_id] = _Absent(self._now(), len(client_id))
        self._kept += len(client_id)
        if len(self._absent) > _MOST_ABSENT:
            self._drop(next(iter(self._absent)))
        self._keep(client_id, untold)
        self._forget(client_id)

    # The ledger.

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        if state in (JobState.WAITING, JobState.RUNNING) or state.ended:
            self.version += 1
        client_id = self._client(job)
        if client_id is None:
            return
        if state.ended:
            ended = self._ledger.ended(job.prompt_id)
            told = ended is None or ended.told
            self._end(job, client_id, ending(job, state, reason, record, self._wall_clock(), told=told), gpu_id, told)
            return
        known = self._clients.setdefault(client_id, _Client()).prompts
        before = known.get(job.prompt_id)
        known[job.prompt_id] = None if state is JobState.WAITING else gpu_id
        if state is JobState.WAITING and before is not None:
            self._tell(client_id, Change(job.prompt_id, None, before, told=False))

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        client_id = self._client(job)
        if client_id is not None:
            self._end(job, client_id, (), None, told=False)

    def _client(self, job: Job) -> str | None:
        client_id = self._whose.get(job.prompt_id)
        if client_id is None and job.client_id and self.aliases.is_aliased(job.client_id, job.submission):
            client_id = self._whose[job.prompt_id] = job.client_id
        return client_id

    def _end(self, job: Job, client_id: str, messages: Sequence[Message], gpu_id: int | None, told: bool) -> None:
        self._whose.pop(job.prompt_id, None)
        client = self._clients.get(client_id)
        if client is not None:
            client.prompts.pop(job.prompt_id, None)
        self._tell(client_id, Change(job.prompt_id, messages, gpu_id, told))
        if messages:
            self._keep(client_id, [(job.prompt_id, messages)])
        self._forget(client_id)

    def _tell(self, client_id: str, change: Change) -> None:
        client = self._clients.get(client_id)
        for told in () if client is None else tuple(client.told):
            told(change)

    def _keep(self, client_id: str, ends: Iterable[tuple[str, Sequence[Message]]]) -> None:
        absent = self._absent.get(client_id)
        if absent is None:
            return
        if self._now() - absent.since > _LONGEST_ABSENCE:
            self._drop(client_id)
            return
        for prompt_id, messages in ends:
            if prompt_id in absent.ends:
                continue
            absent.ends[prompt_id] = messages
            self._count(absent, _size(messages))
            if len(absent.ends) > _MOST_ENDS:
                self._count(absent, -_size(absent.ends.popitem(last=False)[1]))
        while self._kept > _MOST_BYTES:
            self._drop(next(iter(self._absent)))

    def _count(self, absent: _Absent, size: int) -> None:
        absent.size += size
        self._kept += size

    def _drop(self, client_id: str) -> _Absent | None:
        absent = self._absent.pop(client_id, None)
        if absent is not None:
            self._kept -= absent.size
        return absent

    def _forget(self, client_id: str) -> None:
        client = self._clients.get(client_id)
        if client is not None and not client.prompts and not client.told:
            del self._clients[client_id]


def _size(messages: Iterable[Message]) -> int:
    return sum(message.cost for message in messages)
