"""A thread that does one thing after the other, and tells the reactor of each."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class InThread(Protocol):
    """Has something done, one after the other."""

    def __call__(self, act: Callable[[], T]) -> Deferred[T]:
        """Do it; the Deferred fires with what it returns or raises."""


class OneThread:
    """A thread of its own, which does not keep the program from ending.

    Twisted's pools are waited for when the daemon stops, and a disk in trouble
    may not answer before the machine is restarted.

    It starts with the first thing to do: twistd forks in between to become a
    daemon, and no thread goes through that.

    :param call_from_thread: the reactor's ``callFromThread``.
    """

    def __init__(self, call_from_thread: Callable[..., object], name: str = "journal") -> None:
        self._call = call_from_thread
        self._acts: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._name = name
        self._thread: Thread | None = None

    def __call__(self, act: Callable[[], T]) -> Deferred[T]:
        """See :class:`InThread`."""
        done: Deferred[T] = Deferred()

        def run() -> None:
            try:
                result = act()
            except BaseException:
                self._call(done.errback, Failure())
            else:
                self._call(done.callback, result)

        self._acts.put(run)
        if self._thread is None:
            self._thread = Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return done

    def end(self) -> None:
        """End the thread when it has done what it was given."""
        self._acts.put(None)

    def _work(self) -> None:
        while True:
            act = self._acts.get()
            if act is None:
                return
            act()
