"""What outlives the daemon: the journal, opened before anything is started, and what an earlier daemon left in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from attrs import frozen
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.aliases import Aliases
from comfygate.config.settings import Config
from comfygate.control.accept import Acceptance
from comfygate.control.books import Books
from comfygate.control.recovery import recover
from comfygate.errors import JournalError
from comfygate.journal.journal import Journal
from comfygate.journal.keep import Keep
from comfygate.journal.load import Loaded
from comfygate.journal.null import NullJournal
from comfygate.journal.store import Store
from comfygate.journal.thread import OneThread
from comfygate.ledger import Ended

_DRAINED = "drained"
_ALIASES = "secret of aliases"

_AGAIN = 30.0
"""Seconds until what could not be written is tried again."""


@frozen
class Opened:
    """An open journal, and what an earlier daemon left in it."""

    store: Store
    loaded: Loaded


def open_store(config: Config) -> Opened | None:
    """Open the journal's file, and read what has to be known of it; ``None`` if none is wanted.

    :raises ConfigError: if that is not possible.
    """
    if config.journal == "off":
        return None
    try:
        store = Store.open(os.path.join(config.state_dir, "journal.sqlite"))
        return Opened(store, store.load())
    except JournalError as error:
        raise config.mistake("state_dir", error) from None


class Persistence:
    """The journal and whoever reads it at the start.

    :param opened: the open file, which is closed in the end; ``None`` to keep nothing.
    :param reactor: the daemon's.
    :param outliving: see :class:`comfygate.journal.journal.Journal`.
    """

    _log = Logger()

    def __init__(self, opened: Opened | None, reactor: Any, config: Config, outliving: Callable[[int], bool]) -> None:
        self._opened = opened
        self._reactor = reactor
        self._thread = None if opened is None else OneThread(reactor.callFromThread)
        self._drained: tuple[int, ...] = ()
        self._noting: IDelayedCall | None = None
        self.journal: Journal | NullJournal = NullJournal()
        if opened is not None and self._thread is not None:
            asked, keep = self._thread, _kept(config)
            self.journal = Journal(opened.store, asked, reactor, time.time, keep=keep, outliving=outliving)

    def follow(self, config: Config) -> None:
        """Keep as much as this configuration says."""
        if isinstance(self.journal, Journal):
            self.journal.keep(_kept(config))

    def aliases(self) -> Aliases:
        """The other names of clients: after each start the same, if the journal is kept."""
        store = None if self._opened is None else self._opened.store
        text = None if store is None else store.setting(_ALIASES)
        secret = os.urandom(32).hex() if text is None else text
        if store is not None and text is None:
            try:
                store.set_setting(_ALIASES, secret)
            except JournalError as error:
                self._log.warn(
                    "prompts of this time will not be told to their clients after a restart: {error}", error=error
                )
        return Aliases(bytes.fromhex(secret))

    def drained(self) -> tuple[int, ...]:
        """The GPUs that an operator drained, as far as is remembered."""
        text = None if self._opened is None else self._opened.store.setting(_DRAINED)
        return () if text is None else tuple(orjson.loads(text))

    def remember_drained(self, gpu_ids: Iterable[int]) -> None:
        """Remember them for the next start; where that cannot be written now, it is tried again."""
        self._drained = tuple(sorted(gpu_ids))
        self._note_drained()

    def restore(self, books: Books, acceptance: Acceptance) -> None:
        """Enter what an earlier daemon left into the ledger, and take note of every change from now on."""
        opened, self._opened = self._opened, None
        if opened is None or isinstance(self.journal, NullJournal):
            return
        loaded = opened.loaded
        self.journal.start(loaded)
        books.ledger.subscribe(self.journal)
        ended = ((one.prompt_id, Ended(one.gpu_id, one.state, one.reason)) for one in loaded.finished)
        recover(books, loaded.jobs, ended)
        acceptance.begin_after(loaded.sequence)

    async def close(self) -> None:
        """Write what has not been written, and let the file go."""
        self._note_nothing()
        await self.journal.close()
        if self._thread is not None:
            self._thread.end()

    def _note_drained(self) -> None:
        self._note_nothing()
        text = orjson.dumps(self._drained).decode()
        self.journal.set_setting(_DRAINED, text).addErrback(self._note_later)

    def _note_later(self, failure: Failure) -> None:
        if failure.check(JournalError):
            self._log.warn(
                "which GPUs are drained is not written down yet: {error}; it is tried again in {seconds:g} s",
                error=failure.getErrorMessage(),
                seconds=_AGAIN,
            )
            self._note_nothing()
            self._noting = self._reactor.callLater(_AGAIN, self._note_drained)
        else:
            self._log.failure("writing down which GPUs are drained", failure=failure)

    def _note_nothing(self) -> None:
        if self._noting is not None and self._noting.active():
            self._noting.cancel()
        self._noting = None


def _kept(config: Config) -> Keep:
    return Keep(finished=config.keep_finished, days=config.keep_days)
