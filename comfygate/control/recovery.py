"""What an earlier daemon left in the journal: back into the ledger before anything is accepted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import evolve, frozen
from twisted.logger import Logger

from comfygate.control.books import Books
from comfygate.journal.records import Journalled
from comfygate.ledger import NOWHERE, Ended
from comfygate.model import Job, JobState, is_gpus_own
from comfygate.routing.succession import heir

_log = Logger()

MOST_RUNS = 10
"""A job that was running at the end of so many daemons is not tried again: it may be what ends the machine."""

_HELD = frozenset({JobState.SENT, JobState.UNCLEAR, JobState.PENDING, JobState.RUNNING})


@frozen
class Recovered:
    """What became of the jobs.

    :ivar waiting: they wait again, and will run.
    :ivar looked_up: a ComfyUI that outlived the daemon may have them.
    :ivar given_up: they were running at the end of :data:`MOST_RUNS` daemons, and failed now.
    :ivar stranded: all GPUs that may run them are gone; they wait, listed
        under none, until those are back, or somebody moves them.  One that may
        have run is only kept in the journal, and looked up at the next start.
    """

    waiting: int
    looked_up: int
    given_up: int
    stranded: tuple[Job, ...]


def recover(books: Books, unfinished: Iterable[Journalled], ended: Iterable[tuple[str, Ended]]) -> Recovered:
    """Enter everything into the ledger.

    A job that a backend of ours held was lost with it, since those die with
    the daemon, and waits in its old place.  What a backend of someone else
    held is looked for there, and not sent again before.

    :param unfinished: in any order.
    :param ended: the oldest first.
    """
    for prompt_id, end in ended:
        books.ledger.remember(prompt_id, end)
    waiting, looked_up, given_up, stranded = 0, 0, 0, []
    newest = {one.job.prompt_id: one for one in sorted(unfinished, key=lambda one: one.job.sequence)}
    for one in newest.values():
        job = _placed(_aliased(one.job, books), books)
        if job is None:
            stranded.append(one.job)
            _strand(books, one)
        elif _may_be_there(one, books):
            _look_up(books, job, one.gpu_id)
            looked_up += 1
        else:
            again = evolve(job, attempts=job.attempts + (one.state is JobState.RUNNING))
            if again.attempts < MOST_RUNS:
                books.ledger.accept(again)
                waiting += 1
            else:
                _give_up(books, again)
                given_up += 1
    return _told(Recovered(waiting, looked_up, given_up, tuple(stranded)))


def _aliased(job: Job, books: Books) -> Job:
    """The job as the ports that merge several GPUs submit theirs; before they did, it had its client's own id."""
    if is_gpus_own(job.gate):
        return job
    return evolve(job, submission=books.aliases.under_alias(job.client_id, job.submission))


def _placed(job: Job, books: Books) -> Job | None:
    """The job as it can run with the GPUs and gates that there are now; ``None`` if it cannot."""
    targets = job.targets & frozenset(books.fleet.gpu_ids)
    if not targets:
        return None
    gates = {gate.name: frozenset(gate.gpu_ids) for gate in books.gates.values()}
    gate = heir(job.gate, targets, gates)
    targets &= gates[gate]
    return evolve(job, targets=targets, gate=gate, expected=job.expected if job.expected in targets else min(targets))


def _may_be_there(one: Journalled, books: Books) -> bool:
    if one.state not in _HELD or one.gpu_id not in books.fleet.gpu_ids:
        return False
    return not books.fleet[one.gpu_id].owned


def _strand(books: Books, one: Journalled) -> None:
    if one.state is JobState.WAITING:
        books.ledger.accept(evolve(one.job, expected=NOWHERE))
    else:
        # It is to be looked up on its GPU, if that is back at the next start; until then its id is taken.
        reason = f"it may have run on GPU {one.gpu_id}, which is not configured any more"
        books.ledger.remember(one.job.prompt_id, Ended(one.gpu_id, JobState.UNKNOWN, reason))


def _look_up(books: Books, job: Job, gpu_id: int | None) -> None:
    if gpu_id is not None:
        books.ledger.accept(job)
        books.ledger.assign(job.prompt_id, gpu_id)
        books.ledger.hold(job, gpu_id, JobState.UNCLEAR)


def _give_up(books: Books, job: Job) -> None:
    _look_up(books, job, job.expected)
    books.fail(job.prompt_id, f"it was begun {job.attempts} times, and ComfyGate ended each time before it did")
    _log.error(
        "{prompt_id} failed: it was running at the end of {times} daemons, and may be to blame",
        prompt_id=job.prompt_id,
        times=job.attempts,
    )


def _told(found: Recovered) -> Recovered:
    if found.waiting or found.looked_up:
        _log.info(
            "{waiting} prompts of the time before the start wait to be run, {looked_up} are looked for in ComfyUIs "
            "that ran on",
            waiting=found.waiting,
            looked_up=found.looked_up,
        )
    if found.stranded:
        _log.warn(
            "{count} prompts in the journal may only run on GPUs {gpus}, which are not configured any more; they are "
            "kept: configure those again",
            count=len(found.stranded),
            gpus=", ".join(map(str, _targets(found.stranded))),
        )
    return found


def _targets(jobs: Sequence[Job]) -> list[int]:
    return sorted({gpu_id for job in jobs for gpu_id in job.targets})
