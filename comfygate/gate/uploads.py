"""Uploads end one GPU after the other, because all GPUs write into one input folder.

ComfyUI looks whether a name is free, and writes, in one step that nothing in
its process can interrupt, after it has received the whole body.  Another
process may look at the same moment, and one of two files is lost.  So the end
of an upload is held back while uploads of another GPU are ending; everything
before the end streams.  docs/decisions/0010-uploads-take-turns.md has the
reasons.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.gate.alarm import Due
from comfygate.gate.pool import UpstreamConnection

log = Logger()

PATIENCE = 30.0
"""Seconds after which an upload waits no longer for those of another GPU."""


class UploadRoom:
    """Where uploads end: at any time only those of one GPU.

    Who comes first goes in first, so that no GPU is left waiting for ever.  One
    that has waited for `patience` goes in all the same: whoever is inside must
    be stuck.  Until these are done, their GPU's uploads neither wait nor count.

    :param clock: times the waits.
    """

    def __init__(self, clock: IReactorTime, patience: float = PATIENCE) -> None:
        self.clock = clock
        self.patience = patience
        self._waiting: dict[Turn, None] = {}  # the first to come first
        self._inside: set[Turn] = set()
        self._stuck: set[Turn] = set()

    def turn(self, gpu_id: int) -> Turn:
        """Make the turn of one upload to a GPU; nothing happens until it is asked for."""
        return Turn(self, gpu_id)

    # For Turn.

    def come(self, turn: Turn) -> None:
        """Let `turn` in, or have it wait."""
        if (self._waiting and not self._is_stuck(turn)) or not self._fits(turn):
            self._waiting[turn] = None
        else:
            self._let_in(turn)

    def overtake(self, turn: Turn) -> None:
        """Let `turn` in, whoever is there."""
        stuck = {other for other in self._inside if other.gpu_id != turn.gpu_id}
        log.warn(
            "an upload to GPU {gpu_id} has waited {seconds} s for uploads to GPU {others} to end and goes ahead;"
            " files of one name that come now may replace each other",
            gpu_id=turn.gpu_id,
            seconds=self.patience,
            others=", ".join(str(gpu_id) for gpu_id in sorted({other.gpu_id for other in stuck})) or "of any number",
        )
        self._inside -= stuck
        self._stuck |= stuck
        self._waiting.pop(turn, None)
        self._let_in(turn)
        self._next()

    def leave(self, turn: Turn) -> None:
        """`turn` is over."""
        self._waiting.pop(turn, None)
        self._inside.discard(turn)
        self._stuck.discard(turn)
        self._next()

    def _next(self) -> None:
        while self._waiting and self._fits(turn := next(iter(self._waiting))):
            del self._waiting[turn]
            self._let_in(turn)

    def _fits(self, turn: Turn) -> bool:
        return self._is_stuck(turn) or all(other.gpu_id == turn.gpu_id for other in self._inside)

    def _is_stuck(self, turn: Turn) -> bool:
        return any(other.gpu_id == turn.gpu_id for other in self._stuck)

    def _let_in(self, turn: Turn) -> None:
        if not self._is_stuck(turn):
            self._inside.add(turn)
        turn.begin()


class Turn:
    """One upload's time to end.

    Ended by :meth:`leave` or :meth:`abandon`, whether or not it was asked for.

    :ivar waiting: whether the end of the upload is held back now.
    """

    def __init__(self, room: UploadRoom, gpu_id: int) -> None:
        self.gpu_id = gpu_id
        self.waiting = False
        self._room = room
        self._inside = False
        self._until = 0.0
        self._go: Callable[[], None] = _nothing

    def ask(self, go: Callable[[], None]) -> None:
        """Call `go`, which sends the end, when the time has come; that may be at once."""
        self._go = go
        self.waiting = True
        self._until = self._room.clock.seconds() + self._room.patience
        self._room.come(self)

    def due(self) -> Due:
        """Say until when it waits, and what to do then."""
        return self._until, self._overtake

    def begin(self) -> None:
        """The time has come (for the room to call)."""
        self.waiting, self._inside = False, True
        go, self._go = self._go, _nothing
        go()

    def leave(self) -> None:
        """The answer is complete, or will never come: the next may end."""
        self.waiting = self._inside = False
        self._go = _nothing
        self._room.leave(self)

    def abandon(self, upstream: UpstreamConnection | None) -> None:
        """Nobody needs the answer: close the connection as soon as that is safe, and leave.

        A ComfyUI that has the whole body writes the file whether anybody waits
        for its answer or not, so it is waited for.
        """
        if upstream is not None and self._inside:
            _Aftermath(self, upstream, self._room.clock, self._room.patience)
            return
        if upstream is not None:
            upstream.discard()
        self.leave()

    def _overtake(self) -> None:
        self._room.overtake(self)


class _Aftermath:
    """Waits for an answer that nobody needs (a Borrower)."""

    def __init__(self, turn: Turn, upstream: UpstreamConnection, clock: IReactorTime, patience: float) -> None:
        self._turn = turn
        self._upstream = upstream
        self._limit = clock.callLater(patience, self._given_up)
        upstream.lend(self)
        upstream.resume()

    def upstream_received(self, data: bytes) -> None:
        """It answers: the file is written, or refused."""
        self._limit.cancel()
        self._given_up()

    def upstream_lost(self, reason: Failure) -> None:
        """It will not answer."""
        self._limit.cancel()
        self._turn.leave()

    def upstream_full(self) -> None:
        """Nothing more is to be written."""

    def upstream_drained(self) -> None:
        """Nothing more is to be written."""

    def _given_up(self) -> None:
        self._upstream.discard()
        self._turn.leave()


def _nothing() -> None:
    pass
