"""Accepts, runs and ends jobs in a journal, and says what it was told: a program to be killed.

Arguments: the journal's path, the first job's sequence number, how many jobs.
"""

import sys
import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from comfygate.journal.journal import Journal
from comfygate.journal.keep import Keep
from comfygate.journal.store import Store
from comfygate.journal.thread import OneThread
from comfygate.model import JobState
from tests.journals import make_job, record_of

CLIENTS = 4


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def client(journal: Journal, sequences: list[int]) -> None:
    for sequence in sequences:
        job = make_job(sequence, size=3000)
        await journal.accept(job)
        say("accepted", sequence)
        journal.job_changed(job, JobState.WAITING, None, None, None)
        journal.job_changed(job, JobState.RUNNING, 0, None, None)
        if sequence % 3:
            journal.job_changed(job, JobState.DONE, 0, None, record_of(job))
            await journal.flush()
            say("ended", sequence)


async def main(path: str, first: int, count: int) -> None:
    store = Store.open(path)
    thread = OneThread(reactor.callFromThread)
    journal = Journal(store, thread, reactor, time.time, keep=Keep(), outliving=lambda _: False)
    journal.start(store.load())
    sequences = list(range(first, first + count))
    await gatherResults(
        [Deferred.fromCoroutine(client(journal, sequences[number::CLIENTS])) for number in range(CLIENTS)]
    )
    await journal.close()
    thread.end()


if __name__ == "__main__":
    done = Deferred.fromCoroutine(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    done.addErrback(lambda failure: failure.printTraceback())
    done.addBoth(lambda _: reactor.stop() if reactor.running else reactor.callWhenRunning(reactor.stop))
    reactor.run()
