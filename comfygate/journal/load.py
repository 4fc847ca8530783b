"""What a journal says when the daemon starts; damaged rows are put apart from the others."""

from __future__ import annotations

import sqlite3

from attrs import frozen

from comfygate.journal import statements
from comfygate.journal.archive import last_id
from comfygate.journal.loss import Loss
from comfygate.journal.records import (
    BODIES,
    FINISHED,
    JOBS,
    RECORDS,
    DamagedRowError,
    Finished,
    Journalled,
    Row,
    Table,
    finished_row,
    lost,
    lost_body,
    read_finished,
    read_job_head,
    with_body,
)
from comfygate.journal.rescue import note
from comfygate.journal.sqlite import transaction


@frozen(kw_only=True)
class Loaded:
    """What the daemon has to know when it starts.

    :ivar jobs: those that are not over, in the order of their acceptance.
    :ivar finished: the newest that are, without their records, the oldest
        first; those in `lost` among them.
    :ivar lost: jobs that were not over, and ended now, as failed: their rows
        were damaged.
    :ivar sequence: the highest sequence number that is known; the next queue
        number of ComfyUI's is the same, as both count accepted jobs.
    :ivar losses: what was put into quarantine.
    """

    jobs: tuple[Journalled, ...] = ()
    finished: tuple[Finished, ...] = ()
    lost: tuple[Finished, ...] = ()
    sequence: int = 0
    losses: tuple[Loss, ...] = ()


def load(connection: sqlite3.Connection, remembered: int, now: float) -> Loaded:
    """Read everything that is not over, and what is remembered of the rest.

    :param now: seconds since 1970.
    """
    return _Loading(connection, now).load(remembered)


class _Loading:
    """Everything is read before anything is put apart, which is done in one transaction."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._connection = connection
        self._now = now
        self._damaged: list[tuple[Table, Row, Loss]] = []
        self._leftover: list[int] = []
        self._lost: list[Finished] = []

    def load(self, remembered: int) -> Loaded:
        """See :func:`load`."""
        finished = [self._finished(row) for row in self._rows(FINISHED, "ORDER BY id DESC LIMIT ?", remembered)]
        bodies = {row[0]: row for row in self._rows(BODIES)}
        over = self._over_all_the_same()
        jobs = []
        for row in self._rows(JOBS, "ORDER BY sequence"):
            if row[0] in over:
                self._leftover.append(_number(row))
                bodies.pop(row[0], None)
            else:
                jobs.append(self._job(row, bodies.pop(row[0], None)))
        for row in bodies.values():
            self._lone_body(row)
        if self._damaged or self._leftover:
            with transaction(self._connection):
                self._put_apart()
        known = [one for one in reversed(finished) if one is not None] + self._lost
        waiting = tuple(one for one in jobs if one is not None)
        numbers = [one.sequence for one in known] + [one.job.sequence for one in waiting]
        return Loaded(
            jobs=waiting,
            finished=tuple(known[-remembered:]),
            lost=tuple(self._lost),
            sequence=max(numbers, default=0),
            losses=tuple(loss for _, _, loss in self._damaged),
        )

    def _rows(self, table: Table, rest: str = "", *values: int) -> list[Row]:
        return self._connection.execute(statements.select(table, rest), values).fetchall()

    def _over_all_the_same(self) -> set[int]:
        # A damaged file's older pages may bring a job back that ended since.
        # An id may be used again once it is forgotten: only what was accepted before that end is over.
        ended = (
            "SELECT j.sequence FROM jobs j JOIN finished f ON f.prompt_id = j.prompt_id AND f.sequence >= j.sequence"
        )
        return {sequence for (sequence,) in self._connection.execute(ended)}

    def _finished(self, row: Row) -> Finished | None:
        try:
            return read_finished(row)
        except DamagedRowError as error:
            self._lose(FINISHED, row, str(error))
            return None

    def _job(self, row: Row, body: Row | None) -> Journalled | None:
        try:
            head = read_job_head(row)
        except DamagedRowError as error:
            self._lose(JOBS, row, str(error))
            if body is not None:
                self._lone_body(body)
            return None
        try:
            if body is None:
                raise DamagedRowError("the prompt itself is missing")
            return with_body(head, body)
        except DamagedRowError as error:
            self._lose(BODIES, body or row, str(error), head.job.prompt_id)
            self._lost.append(lost(head, self._now, str(error)))
            return None

    def _lone_body(self, row: Row) -> None:
        ended = lost_body(row, self._now)
        if ended is None:
            self._lose(BODIES, row, "the checksum is wrong")
        elif self._is_over(ended):
            self._leftover.append(ended.sequence)
        else:
            self._lose(BODIES, row, "what belongs to it is missing", ended.prompt_id)
            self._lost.append(ended)

    def _is_over(self, ended: Finished) -> bool:
        over = "SELECT 1 FROM finished WHERE prompt_id = ? AND sequence >= ?"
        found = self._connection.execute(over, (ended.prompt_id, ended.sequence))
        return found.fetchone() is not None

    def _lose(self, table: Table, row: Row, why: str, prompt_id: str | None = None) -> None:
        self._damaged.append((table, row, Loss(table.name, why, prompt_id)))

    def _put_apart(self) -> None:
        for table, row, loss in self._damaged:
            note(self._connection, self._now, table.name, loss.why, row)
            number = _number(row)
            for one in (FINISHED, RECORDS) if table is FINISHED else (JOBS, BODIES):
                statements.delete(self._connection, one, [number])
        for table in (JOBS, BODIES):
            statements.delete(self._connection, table, self._leftover)
        first = last_id(self._connection) + 1
        rows = [finished_row(number, one) for number, one in enumerate(self._lost, first)]
        statements.insert(self._connection, FINISHED, rows, "IGNORE")


def _number(row: Row) -> int:
    return int(row[0] or 0)
