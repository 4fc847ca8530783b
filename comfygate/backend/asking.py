"""One question to several backends at once: their answers, none of which waits for another."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Generic, TypeVar

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from comfygate.errors import BackendError, BackendUnclear

T = TypeVar("T")


@frozen
class Told(Generic[T]):
    """What came in time.

    :ivar answers: by gpu_id, in the order in which they were asked.
    :ivar failures: why the others have not answered.
    """

    answers: Mapping[int, T] = field(factory=dict)
    failures: Mapping[int, BackendError] = field(factory=dict)


class _Round(Generic[T]):
    """The questions that are under way."""

    def __init__(self, clock: IReactorTime, seconds: float, rest: float | None) -> None:
        self.over: Deferred[None] = Deferred()
        self.answers: dict[int, T] = {}
        self.failures: dict[int, BackendError] = {}
        self.error: Failure | None = None
        self.asking: dict[int, Deferred[T]] = {}
        self._clock = clock
        self._rest = rest
        self._late = clock.callLater(seconds, self._end)

    def told(self, result: T | Failure, gpu_id: int) -> None:
        self.asking.pop(gpu_id, None)
        if not isinstance(result, Failure):
            self.answers[gpu_id] = result
            if result is not None and self._rest is not None:
                self._hurry(self._rest)
        elif isinstance(result.value, BackendError):
            self.failures[gpu_id] = result.value
        elif result.check(CancelledError) is None:
            self.error = result
        if not self.asking:
            self._end()

    def stop(self) -> None:
        if self._late.active():
            self._late.cancel()
        for asking in list(self.asking.values()):
            asking.cancel()

    def _hurry(self, seconds: float) -> None:
        if self._late.active() and self._late.getTime() > self._clock.seconds() + seconds:
            self._late.reset(seconds)

    def _end(self) -> None:
        if not self.over.called:
            self.over.callback(None)


async def ask_at_once(
    clock: IReactorTime,
    questions: Mapping[int, Coroutine[Deferred[Any], Any, T]],
    *,
    seconds: float,
    rest: float | None = None,
) -> Told[T]:
    """Put questions at the same time.

    :param questions: by gpu_id.
    :param seconds: for all of them; what has not come by then is given up.
    :param rest: seconds that the others have once one has answered with
        something other than ``None``; as `seconds` where not given.
    """
    asked = _Round[T](clock, seconds, rest)
    try:
        asked.asking.update({gpu_id: Deferred.fromCoroutine(question) for gpu_id, question in questions.items()})
        for gpu_id, asking in list(asked.asking.items()):  # all are begun before any may end
            asking.addBoth(asked.told, gpu_id)
        if questions:
            await asked.over
        silent = list(asked.asking)
    finally:
        asked.stop()
    if asked.error is not None:
        asked.error.raiseException()
    late = {gpu_id: BackendUnclear(f"GPU {gpu_id} did not answer within {seconds:g} s") for gpu_id in silent}
    order = {gpu_id: asked.answers[gpu_id] for gpu_id in questions if gpu_id in asked.answers}
    failures = {**asked.failures, **late}
    return Told(order, {gpu_id: failures[gpu_id] for gpu_id in questions if gpu_id in failures})
