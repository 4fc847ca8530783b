"""A client that listens to all GPUs of a gate at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import orjson
from attrs import frozen
from twisted.internet.interfaces import IDelayedCall

from comfygate.gate.ear import Dialling, Ear
from comfygate.gate.features import FEATURE_FLAGS
from comfygate.gate.handshake import Wanted
from comfygate.gate.merged_client import MergedClient
from comfygate.gate.websocket_leg import SERVICE_RESTART, Ending
from comfygate.http1 import RequestHead
from comfygate.interfaces import IStatusSource
from comfygate.last_words import EVENTS
from comfygate.outbox import Message, text_type
from comfygate.stream.merge import Merger
from comfygate.stream.roll import Change, Roll
from comfygate.stream.spoken import Role, read

SEVERAL = "supports_concurrent_prompts"
"""The feature flag of clients that can follow several prompts at once; ours, not ComfyUI's."""

_LONGEST_FLAGS = 32 * 1024
_UNHEARD = Ending(SERVICE_RESTART, "no backend accepts the WebSocket")


class Gate(Dialling, Protocol):
    """What a listener needs of its gate."""

    status: IStatusSource

    def is_ready(self, gpu_id: int) -> bool:
        """Whether a backend serves requests."""

    def dissolved(self, client_id: str) -> None:
        """A listener has no socket any more."""


@frozen
class _Own:
    """A client's prompts, as a merger asks for them."""

    roll: Roll
    client_id: str

    def owns(self, prompt_id: str) -> bool:
        return self.roll.owns(self.client_id, prompt_id)

    def runs(self, gpu_id: int) -> str | None:
        return self.roll.runs(self.client_id, gpu_id)


class Listener:
    """All sockets of one clientId at one gate, and an ear at every GPU of it.

    :ivar client_id: as the client knows it.
    :ivar alias: as the backends know it.
    :ivar wanted: the request for the backends.
    :ivar first: what every connection to a backend begins with: the client's feature flags.
    """

    __slots__ = (
        "_answer",
        "_asked_for",
        "_ears",
        "_full",
        "_gate",
        "_gpu_ids",
        "_merger",
        "_news",
        "_roll",
        "_settling",
        "_sockets",
        "_waking",
        "alias",
        "client_id",
        "first",
        "wanted",
    )

    def __init__(self, gate: Gate, roll: Roll, client_id: str, head: RequestHead, gpu_ids: Sequence[int]) -> None:
        self.client_id = client_id
        self.alias = roll.aliases.inside(client_id)
        self.wanted = Wanted.under_alias(head, self.alias)
        self.first: bytes | None = None
        self._gate = gate
        self._roll = roll
        self._gpu_ids = tuple(gpu_ids)
        self._merger = Merger(_Own(roll, client_id))
        self._ears: dict[int, Ear] = {}
        self._sockets: list[MergedClient] = []
        self._news: list[Change] = []
        self._settling: IDelayedCall | None = None
        self._waking: IDelayedCall | None = None
        self._answer: bytes | None = None  # the newest answer to the client's feature flags
        self._full = False
        self._asked_for = 0  # the end up to which the client was asked for a sign

    # The sockets'.

    @property
    def settled(self) -> bool:
        """Whether it is known of every backend if it can be heard."""
        return all(ear.settled for ear in self._ears.values())

    def enter(self, socket: MergedClient) -> None:
        """Serve this socket from now on, and tell it what it may have missed."""
        missed = [] if self._sockets else self._roll.listen(self.client_id, self._note)
        self._sockets.append(socket)
        socket.greet(self.remaining(), self._roll.version, self.client_id)
        self._adopt(socket)
        self._merger.miss(missed)
        self._catch_up(socket)
        self._review()

    def _catch_up(self, socket: MergedClient) -> None:
        """Tell a socket what another one was told, or nobody."""
        self._deliver(self._merger.recall())
        if self._merger.unsure:
            socket.ask(self._merger.ends)

    def exit(self, socket: MergedClient) -> None:
        """Serve the one before again; the last one ends everything."""
        if socket not in self._sockets:
            return
        newest = self._sockets[-1] is socket
        self._sockets.remove(socket)
        if not self._sockets:
            self._dissolve()
        elif newest:
            self._adopt(self._sockets[-1])
            self._catch_up(self._sockets[-1])

    def said(self, socket: MergedClient, payload: bytes, binary: bool) -> None:
        """Take note of a client's feature flags; what else it says, one backend is told."""
        if socket is not self._sockets[-1]:
            return
        short = not binary and len(payload) <= _LONGEST_FLAGS
        if short and not socket.spoke and text_type(payload) == FEATURE_FLAGS:
            socket.flags, socket.several = _without_ours(payload)
            self._adopt(socket)
        elif not self._full:  # ComfyUI does not listen; so it is not worth waiting for
            any(ear.say(payload, binary) for ear in self._ears.values())

    def confirmed(self, number: int) -> None:
        """See :meth:`comfygate.stream.merge.Merger.confirm`."""
        self._merger.confirm(number)

    def remaining(self) -> int:
        """How many prompts are left: never none while the client waits for one of its own."""
        return self._shown(self._gate.status.remaining())

    def _shown(self, left: int) -> int:
        return left or int(self._merger.waits(self._roll.prompts(self.client_id)))

    # The ears'.

    def ear_said(self, gpu_id: int, payload: bytes, binary: bool) -> None:
        """A backend sent a message."""
        kind = None if binary else text_type(payload)
        if kind in EVENTS:
            self._gate.status.heard(kind, payload)
        elif kind == FEATURE_FLAGS:
            self._hear_answer(payload)
            return
        self._deliver(self._merger.hear(gpu_id, Message(payload, binary), self._now))

    def ear_settled(self, gpu_id: int) -> None:
        """Accept the sockets, once all is known."""
        if self.settled:
            for socket in tuple(self._sockets):
                socket.answer()

    def ear_full(self, full: bool) -> None:
        """Whether the backend that is told what the client says takes no more at present."""
        self._full = full

    def ear_lost(self, gpu_id: int) -> None:
        """A backend does not take the connection: without any other, the client is told to come again."""
        del self._ears[gpu_id]
        self._lose(gpu_id)
        if not self._ears:
            self.close(_UNHEARD)

    # The gate's.

    def serve(self, gpu_ids: Sequence[int]) -> None:
        """The gate has this set from now on; a GPU that runs one of the client's prompts is heard to its end."""
        self._gpu_ids = tuple(gpu_ids)
        self._review()

    def backend_changed(self, gpu_id: int) -> None:
        """A backend has come, or is gone."""
        if not self._gate.is_ready(gpu_id):
            self._lose(gpu_id)
        self._review()

    def tell(self, left: int) -> None:
        """Tell how many prompts are left.

        :param left: on all GPUs of the gate.
        """
        remaining = self._shown(left)
        for socket in tuple(self._sockets):
            socket.tell(remaining, self._roll.version)

    def close(self, ending: Ending) -> None:
        """Close all sockets."""
        for socket in tuple(self._sockets):
            socket.close(ending)

    # How.

    @property
    def _now(self) -> float:
        return self._gate.clock.seconds()

    def _review(self) -> None:
        """Have ears where they are wanted."""
        if not self._sockets:
            return
        for gpu_id in self._gpu_ids:
            if gpu_id not in self._ears:
                ear = self._ears[gpu_id] = Ear(self._gate, self, gpu_id)
                ear.join()
        for gpu_id in [one for one in self._ears if one not in self._gpu_ids]:
            if not self._gate.is_ready(gpu_id) or self._roll.runs(self.client_id, gpu_id) is None:
                self._ears.pop(gpu_id).leave()
                self._lose(gpu_id)

    def _note(self, change: Change) -> None:
        """The ledger is changing: look at it when that is done."""
        self._news.append(change)
        if self._settling is None:
            self._settling = self._gate.clock.callLater(0, self._settle)

    def _settle(self) -> None:
        self._settling = None
        news, self._news = self._news, []
        out: list[Message] = []
        for change in news:
            if change.ending is None:
                out += self._merger.again(change.prompt_id, self._now)
            else:
                ear = self._ears.get(-1 if change.gpu_id is None else change.gpu_id)
                audible = change.told and ear is not None and ear.hears
                out += self._merger.end(change.prompt_id, change.ending, self._now, audible=audible)
        self._deliver(out)
        self._review()

    def _lose(self, gpu_id: int) -> None:
        self._deliver(self._merger.lose(gpu_id, self._now))

    def _deliver(self, messages: Iterable[Message]) -> None:
        if not self._sockets:
            return
        messages, ends = tuple(messages), self._merger.ends
        if self._asked_for == ends:
            self._sockets[-1].deliver(messages)
        else:
            self._asked_for = ends
            self._deliver_ends(messages)
        if self._sockets:  # the last may have been closed for being slow
            self._wake_in_time()

    def _deliver_ends(self, messages: Sequence[Message]) -> None:
        """ComfyUI tells how many prompts are left before it says that nothing runs."""
        socket = self._sockets[-1]
        at = max((n for n, one in enumerate(messages) if read(one).role is Role.IDLE), default=len(messages))
        socket.deliver(messages[:at])
        self.tell(self._gate.status.remaining())
        socket.deliver(messages[at:])
        socket.ask(self._asked_for)

    def _wake_in_time(self) -> None:
        due = self._merger.due
        if self._waking is not None:
            if due is not None and self._waking.active() and self._waking.getTime() <= due:
                return
            if self._waking.active():
                self._waking.cancel()
            self._waking = None
        if due is not None:
            self._waking = self._gate.clock.callLater(max(0.0, due - self._now), self._wake)

    def _wake(self) -> None:
        self._waking = None
        self._deliver(self._merger.wake(self._now))

    def _adopt(self, socket: MergedClient) -> None:
        """Speak as this socket has negotiated."""
        flags = {} if socket.flags is None else _flags(socket.flags)
        self._deliver(
            self._merger.negotiate(
                self._now,
                features=socket.flags is not None,
                metadata=flags.get("supports_preview_metadata") is True,
                several=socket.several,
            )
        )
        # Who has said nothing gets along with what another socket has negotiated.
        if socket.flags is not None and socket.flags != self.first:
            self.first, self._answer = socket.flags, None
            for gpu_id in list(self._ears):
                self._introduce(gpu_id)
        elif self._answer is not None:
            self._hear_answer(self._answer)

    def _introduce(self, gpu_id: int) -> None:
        """Say the client's flags; on a connection that has heard something else, it is too late for that."""
        ear = self._ears[gpu_id]
        if not ear.spoke:
            ear.say(self.first or b"")
            return
        another = self._ears[gpu_id] = Ear(self._gate, self, gpu_id)
        ear.leave()
        another.join()

    def _hear_answer(self, payload: bytes) -> None:
        """The first backend's answer is the client's; it hears of no other."""
        self._answer = payload
        socket = self._sockets[-1] if self._sockets else None
        if socket is None or socket.flags is None or socket.answered:
            return
        socket.answered = True
        self._deliver([Message(_with_ours(payload) if socket.several else payload)])

    def _dissolve(self) -> None:
        for timer in (self._settling, self._waking):
            if timer is not None and timer.active():
                timer.cancel()
        self._settling = self._waking = None
        untold = self._merger.untold()
        untold += [(one.prompt_id, one.ending) for one in self._news if one.ending]
        self._news.clear()
        self._roll.leave(self.client_id, self._note, untold)
        ears, self._ears = self._ears, {}
        for ear in ears.values():
            ear.leave()
        self._gate.dissolved(self.client_id)


def _flags(payload: bytes) -> dict[str, object]:
    try:
        data = orjson.loads(payload)["data"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return {}
    return data if isinstance(data, dict) else {}


def _without_ours(payload: bytes) -> tuple[bytes, bool]:
    """A client's feature flags for the backends, and whether it follows several prompts at once."""
    flags = _flags(payload)
    if SEVERAL not in flags:
        return payload, False
    several = flags.pop(SEVERAL) is True
    return orjson.dumps({"type": "feature_flags", "data": flags}), several


def _with_ours(payload: bytes) -> bytes:
    return orjson.dumps({"type": "feature_flags", "data": {**_flags(payload), SEVERAL: True}})
