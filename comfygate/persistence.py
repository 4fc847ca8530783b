"""What outlives the daemon: the journal, opened before anything is started, and what an earlier daemon left in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from twisted.logger import Logger

from comfygate.aliases import Aliases
from comfygate.config.settings import Config
from comfygate.control.accept import Acceptance
from comfygate.control.books import Books
from comfygate.control.recovery import recover
from comfygate.errors import JournalError
from comfygate.journal.journal import Journal
from comfygate.journal.keep import Keep
from comfygate.journal.null import NullJournal
from comfygate.journal.store import Store
from comfygate.journal.thread import OneThread
from comfygate.ledger import Ended

_DRAINED = "drained"
_ALIASES = "secret of aliases"


def open_store(config: Config) -> Store | None:
    """Open the journal's file; ``None`` if none is wanted.

    :raises ConfigError: if that is not possible.
    """
    if config.journal == "off":
        return None
    try:
        return Store.open(os.path.join(config.state_dir, "journal.sqlite"))
    except JournalError as error:
        raise config.mistake("state_dir", error) from None


class Persistence:
    """The journal and whoever reads it at the start.

    :param store: the open file, which is closed in the end; ``None`` to keep nothing.
    :param reactor: the daemon's.
    :param outliving: see :class:`comfygate.journal.journal.Journal`.
    """

    _log = Logger()

    def __init__(self, store: Store | None, reactor: Any, config: Config, outliving: Callable[[int], bool]) -> None:
        self._store = store
        self._thread = None if store is None else OneThread(reactor.callFromThread)
        self.journal: Journal | NullJournal = NullJournal()
        if store is not None and self._thread is not None:
            self.journal = Journal(store, self._thread, reactor, time.time, keep=_kept(config), outliving=outliving)

    def follow(self, config: Config) -> None:
        """Keep as much as this configuration says."""
        if isinstance(self.journal, Journal):
            self.journal.keep(_kept(config))

    def aliases(self) -> Aliases:
        """The other names of clients: after each start the same, if the journal is kept."""
        text = None if self._store is None else self._store.setting(_ALIASES)
        secret = os.urandom(32).hex() if text is None else text
        if self._store is not None and text is None:
            try:
                self._store.set_setting(_ALIASES, secret)
            except JournalError as error:
                self._log.warn(
                    "prompts of this time will not be told to their clients after a restart: {error}", error=error
                )
        return Aliases(bytes.fromhex(secret))

    def drained(self) -> tuple[int, ...]:
        """The GPUs that an operator drained, as far as is remembered."""
        text = None if self._store is None else self._store.setting(_DRAINED)
        return () if text is None else tuple(orjson.loads(text))

    def remember_drained(self, gpu_ids: Iterable[int]) -> None:
        """Remember them for the next start."""
        text = orjson.dumps(sorted(gpu_ids)).decode()
        self.journal.set_setting(_DRAINED, text).addErrback(
            lambda failure: self._log.failure("remembering which GPUs are drained", failure=failure)
        )

    def restore(self, books: Books, acceptance: Acceptance) -> None:
        """Enter what an earlier daemon left into the ledger, and take note of every change from now on."""
        if self._store is None or isinstance(self.journal, NullJournal):
            return
        loaded = self._store.load()
        self.journal.start(loaded)
        books.ledger.subscribe(self.journal)
        ended = ((one.prompt_id, Ended(one.gpu_id, one.state, one.reason)) for one in loaded.finished)
        recover(books, loaded.jobs, ended)
        acceptance.begin_after(loaded.sequence)

    async def close(self) -> None:
        """Write what has not been written, and let the file go."""
        await self.journal.close()
        if self._thread is not None:
            self._thread.end()


def _kept(config: Config) -> Keep:
    return Keep(finished=config.keep_finished, days=config.keep_days)
