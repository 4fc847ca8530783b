"""A changed configuration is applied while the daemon runs, whole or not at all."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.changes import Changes, Run, compare
from comfygate.config.settings import ConfigError
from comfygate.plan import Plan

READ_TIME = 30.0
"""Seconds that reading may take; a driver in trouble may not answer at all."""

Sockets = Mapping[str, socket.socket]


class Adoption(Protocol):
    """Who applies it; see :class:`comfygate.adoption.Adoption`."""

    @property
    def runs(self) -> Mapping[int, Run]:
        """What the backends run with."""

    def claim(self, plan: Plan, changes: Changes) -> Sockets:
        """Take everything that could be missing.

        :raises ConfigError: if something is; then nothing is taken.
        """

    def adopt(self, plan: Plan, changes: Changes, sockets: Sockets) -> None:
        """Apply it.  Must not raise."""


class Reload:
    """Reads the configuration again, one time after the other.

    :param name: what the log calls it.
    :param plan: what is applied now.
    :param read: reads and checks the configuration; may block, and raises ConfigError.
    :param call: calls it in a thread.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        name: str,
        plan: Plan,
        read: Callable[[], Plan],
        call: Callable[[Callable[[], Plan]], Deferred[Plan]],
        adoption: Adoption,
    ) -> None:
        self._clock = clock
        self._name = name
        self._plan = plan
        self._read = read
        self._call = call
        self._adoption = adoption
        self._asking: list[Deferred[Sequence[str]]] = []
        self._under_way: Deferred[Sequence[str]] | None = None
        self._closed = False

    def reload(self) -> Deferred[Sequence[str]]:
        """Apply what has changed; what cannot be done at once is begun, and goes on by itself.

        Whoever asks while the file is being read waits for the next reading,
        together with all others who do.

        :return: fires with what will be done, in sentences; fails with
            ConfigError if it cannot be applied, and then everything is as before.
        """
        asking: Deferred[Sequence[str]] = Deferred(lambda _: None)
        self._asking.append(asking)
        self._begin()
        return asking

    def close(self) -> None:
        """Apply nothing any more."""
        self._closed = True
        if self._under_way is not None:
            self._under_way.cancel()

    def _begin(self) -> None:
        if self._under_way is not None or not self._asking:
            return
        asking, self._asking = self._asking, []
        self._under_way = under_way = Deferred.fromCoroutine(self._reload())
        under_way.addBoth(self._done, asking)

    def _done(self, result: Sequence[str] | Failure, asking: list[Deferred[Sequence[str]]]) -> None:
        self._under_way = None
        for one in asking:
            if one.called:  # whoever asked does not want to know any more
                continue
            if isinstance(result, Failure):
                one.errback(result)
            else:
                one.callback(result)
        self._begin()

    async def _reload(self) -> Sequence[str]:
        try:
            sentences = await self._applied()
        except ConfigError as error:
            self._refuse(str(error))
            raise
        except CancelledError:
            raise
        except Exception as error:
            self._log.failure("the configuration cannot be read")
            self._refuse(f"an error of ours: {error}")
            raise
        self._log.info("reloaded {name}: {changes}", name=self._name, changes="; ".join(sentences))
        return sentences

    async def _applied(self) -> list[str]:
        plan = await self._newest()
        changes = compare(self._plan, plan, self._adoption.runs)
        sockets = self._adoption.claim(plan, changes)
        # From here on nothing can fail that would leave it half done.
        self._plan = plan
        self._adoption.adopt(plan, changes, sockets)
        return changes.sentences()

    async def _newest(self) -> Plan:
        if self._closed:
            raise ConfigError(self._name, "", "", "is not read any more: ComfyGate is being stopped")
        try:
            plan = await self._call(self._read).addTimeout(READ_TIME, self._clock)
        except LateError:
            message = f"could not be checked within {READ_TIME:g} s; see whether the disk and the driver answer"
            raise ConfigError(self._name, "", "", message) from None
        return plan.succeeding(self._plan)

    def _refuse(self, sentence: str) -> None:
        self._log.error(
            "{name} was not applied, everything goes on as before: {sentence}", name=self._name, sentence=sentence
        )
