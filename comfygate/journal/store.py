"""The journal's file: read and written at once, by one thread at a time."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import TypeVar
from zlib import crc32

from comfygate.errors import JournalError
from comfygate.failpoints import reach
from comfygate.journal import archive, statements
from comfygate.journal.batch import Batch
from comfygate.journal.files import Files
from comfygate.journal.keep import Keep
from comfygate.journal.load import Loaded, load
from comfygate.journal.loss import Loss
from comfygate.journal.records import (
    BODIES,
    FINISHED,
    JOBS,
    RECORDS,
    SETTINGS,
    Finished,
    Journalled,
    body_row,
    finished_row,
    fitting,
    has_secrets,
    job_row,
)
from comfygate.journal.rescue import Rescue, find_damage, note, rescue
from comfygate.journal.schema import STEPS, migrate
from comfygate.journal.sqlite import DamagedFileError, connect, errors_explained, transaction

REMEMBERED = 10_000
"""Finished jobs of which at least the end is known, whatever becomes of their history."""

_MOST_CHECKED = 256 * 2**20
"""Bytes of a file that is read through at the start; of larger ones, only what is needed then."""

T = TypeVar("T")


class Store:
    """An open journal.

    Every method raises :class:`~comfygate.errors.JournalError` if the file
    cannot be read or written now; nothing has changed then.  A file that turns
    out to be damaged is replaced by one with everything readable, and with all
    jobs that are known not to be over; :meth:`take_losses` tells of that.

    :param files: where it is.
    :param wall_clock: seconds since 1970.
    """

    def __init__(self, files: Files, wall_clock: Callable[[], float] = time.time) -> None:
        self.path = files.path
        self._files = files
        self._wall_clock = wall_clock
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._unfinished: dict[int, Journalled] | None = None
        self._last_id = 0
        self._log_holds_secrets = False
        self._losses: list[Loss | Rescue] = []

    @classmethod
    def open(cls, path: str, wall_clock: Callable[[], float] = time.time) -> Store:
        """Open the file, or begin a new one.

        :raises JournalError: if that is not possible; the message says what to do.
        :raises JournalVersionError: if a newer ComfyGate wrote it.
        """
        files = Files(path)
        store = cls(files, wall_clock)
        with errors_explained(path):
            files.settle()
            damage = find_damage(files)
        if damage is not None:
            store._replace(damage)
        store._whole(store._check)
        return store

    def close(self) -> None:
        """Close the file; what was written stays, and whatever is done next opens it again."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def take_losses(self) -> list[Loss | Rescue]:
        """What was lost or replaced since this was asked last."""
        taken, self._losses = self._losses, []
        return taken

    def load(self, remembered: int = REMEMBERED) -> Loaded:
        """Read what the daemon has to know when it starts.

        :param remembered: how many finished jobs, the newest.
        """
        return self._whole(lambda: self._load(remembered))

    def write(self, batch: Batch) -> None:
        """Write a batch, whole or not at all; it would survive a loss of power afterwards."""
        self._whole(lambda: self._write(batch))

    def probe(self) -> None:
        """See whether new jobs could be written."""
        self._whole(lambda: archive.probe(self._open()))

    def history(self, prompt_id: str) -> bytes | None:
        """See :class:`comfygate.interfaces.IJournal`."""
        return self._whole(lambda: archive.history(self._open(), prompt_id, self._lose))

    def histories(self, gpu_ids: Iterable[int], before: int | None, most: int) -> archive.Page:
        """The newest entries of jobs that ended on these GPUs.

        :param before: the id behind which to go on; ``None`` to begin.
        :param most: how many.
        """
        chosen = tuple(gpu_ids)
        return self._whole(lambda: archive.histories(self._open(), chosen, before, most, self._lose))

    def forget_histories(self, gpu_ids: Iterable[int], prompt_ids: Iterable[str] | None) -> bool:
        """Drop some entries of these jobs, or of all, that ended on these GPUs.

        :return: whether there may be more.
        """
        chosen, ids = tuple(gpu_ids), None if prompt_ids is None else tuple(prompt_ids)
        return self._whole(lambda: archive.forget(self._open(), chosen, ids))

    def prune(self, keep: Keep, now: float | None = None) -> bool:
        """Drop some of what is beyond what is to be kept.

        :param now: seconds since 1970, if the age is to count too.
        :return: whether there may be more.
        """
        return self._whole(lambda: archive.prune(self._open(), keep, self._last_id, REMEMBERED, now))

    def setting(self, name: str) -> str | None:
        """What was last set, if anything was."""
        return self._whole(lambda: self._setting(name))

    def set_setting(self, name: str, value: str) -> None:
        """Remember a value for the operator."""
        row = SETTINGS.sealed(crc32(name.encode()), name, value, self._wall_clock())
        self._whole(lambda: statements.insert(self._open(), SETTINGS, [row]))

    # How.

    def _whole(self, act: Callable[[], T]) -> T:
        """Do something; if the file turns out to be damaged, replace it and try once more."""
        try:
            return self._explained(act)
        except DamagedFileError as error:
            self._replace(str(error))
        try:
            return self._explained(act)
        except DamagedFileError as error:
            message = f"{self.path} is damaged and cannot be mended ({error}): look at its disk, or move the file away"
            raise JournalError(message) from error

    def _explained(self, act: Callable[[], T]) -> T:
        with errors_explained(self.path):
            return act()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = connect(self.path)
            try:
                if migrate(connection) < len(STEPS):
                    row = SETTINGS.sealed(crc32(b"schema"), "schema", str(len(STEPS)), self._wall_clock())
                    statements.insert(connection, SETTINGS, [row])
                self._last_id = archive.last_id(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._identity = self._files.identity()
        return self._connection

    def _check(self) -> None:
        if self._files.size() <= _MOST_CHECKED:
            for (said,) in self._open().execute("PRAGMA integrity_check(1)"):
                if said != "ok":
                    raise DamagedFileError(said)

    def _replace(self, why: str) -> None:
        unfinished = None if self._unfinished is None else tuple(self._unfinished.values())
        now = self._wall_clock()
        try:
            with errors_explained(self.path):
                done = rescue(self._files, why, now, unfinished)
        except DamagedFileError as error:
            raise JournalError(f"{self.path} is damaged and cannot be mended ({error})") from error
        # Closed only now: SQLite leaves files alone that have got another name.
        self.close()
        self._losses.append(done)
        self._explained(lambda: note(self._open(), now, "file", why, done.aside))

    def _load(self, remembered: int) -> Loaded:
        connection = self._open()
        loaded = load(connection, remembered, self._wall_clock())
        self._unfinished = {noted.job.sequence: noted for noted in loaded.jobs}
        self._last_id = archive.last_id(connection)
        self._losses += loaded.losses
        return loaded

    def _write(self, batch: Batch) -> None:
        connection = self._open()
        if self._identity != self._files.identity():
            raise DamagedFileError("somebody removed it")
        over = [*(one.sequence for one in batch.ended), *batch.refused]
        heads = [job_row(noted) for noted in (*batch.new, *batch.changed)]
        bodies = [body_row(noted.job) for noted in batch.new]
        with transaction(connection):
            reach("journal.batch.begun")
            statements.delete(connection, JOBS, over)
            statements.delete(connection, BODIES, over)
            ended = self._end(connection, batch.ended)
            statements.insert(connection, JOBS, heads)
            statements.insert(connection, BODIES, bodies)
            reach("journal.batch.written")
        reach("journal.batch.committed")
        self._last_id += ended
        self._remember(batch, over)
        self._empty_log()

    def _end(self, connection: sqlite3.Connection, ended: Iterable[Finished]) -> int:
        rows, records = [], []
        for number, one in enumerate(ended, self._last_id + 1):
            rows.append(finished_row(number, one))
            record = fitting(one.record)
            if record is not None:
                records.append(RECORDS.sealed(number, record))
        statements.insert(connection, FINISHED, rows)
        statements.insert(connection, RECORDS, records)
        return len(rows)

    def _remember(self, batch: Batch, over: Iterable[int]) -> None:
        if self._unfinished is None:
            self._unfinished = {}
        for noted in (*batch.new, *batch.changed):
            self._unfinished[noted.job.sequence] = noted
        for sequence in over:
            noted_last = self._unfinished.pop(sequence, None)
            if noted_last is not None and has_secrets(noted_last.job.submission):
                self._log_holds_secrets = True

    def _empty_log(self) -> None:
        # The pages are overwritten in the file, and the log that held them is cut off.
        if self._log_holds_secrets:
            with contextlib.suppress(sqlite3.Error):
                busy, _, _ = self._open().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self._log_holds_secrets = bool(busy)

    def _setting(self, name: str) -> str | None:
        row = self._open().execute(statements.select(SETTINGS, "WHERE name = ?"), (name,)).fetchone()
        if row is None:
            return None
        if not SETTINGS.is_whole(row):
            self._lose(Loss("settings", "the checksum is wrong", name), row)
            return None
        return str(row[2])

    def _lose(self, loss: Loss, row: object) -> None:
        note(self._open(), self._wall_clock(), loss.table, loss.why, row)
        self._losses.append(loss)
