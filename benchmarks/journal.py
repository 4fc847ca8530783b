"""What the journal costs those who send prompts.

Prints first what the disk and the journal can do by themselves: flushes a
second, and prompts accepted a second with 16 on the way.  Then, in each round,
two whole daemons with simulated GPUs are started, one with the journal and one
without, and 16 clients send small prompts to their hubs, to the one and the
other in turns: whatever makes the machine slower meanwhile hits both.

    python -m benchmarks.journal --rounds 5 --requests 2000
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
from attrs import frozen
from twisted.internet import reactor as _reactor  # noqa: TID251
from twisted.internet.defer import Deferred, gatherResults

from comfygate.journal.journal import Journal
from comfygate.journal.keep import Keep
from comfygate.journal.store import Store
from comfygate.journal.thread import OneThread
from tests.gateway import Gateway, running, workflow
from tests.journals import make_job

CLIENTS = 16
reactor: Any = _reactor


@frozen
class Burst:
    """How long each prompt and all of them took, and the daemon's processor time, in seconds."""

    took: list[float]
    seconds: float
    processor: float


@frozen
class Figures:
    """Prompts a second, and milliseconds: that they took, and of the daemon's processor time for each.

    The latter counts what is done for the prompts that run meanwhile, too.
    """

    rate: float
    p50: float
    p99: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000, help="prompts sent to one daemon in a round")
    parser.add_argument("--burst", type=int, default=100, help="how many of them in a row")
    parser.add_argument("--work", type=float, default=600.0, help="seconds that each prompt runs; 0: many run")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--folder", help="where the journal is written; by default where temporary files are")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        flushes(Path(folder))
        alone(Path(folder))
        compare(Path(folder), options)


def flushes(folder: Path) -> None:
    """Time how long the disk takes to keep 20 kB."""
    file = os.open(folder / "flushes", os.O_WRONLY | os.O_CREAT)
    took = []
    for _ in range(300):
        began = time.perf_counter()
        os.write(file, b"x" * 20_000)
        os.fdatasync(file)
        took.append(time.perf_counter() - began)
    os.close(file)
    print(f"disk: {1 / statistics.mean(took):.0f} flushes a second, median {1000 * statistics.median(took):.2f} ms")


def alone(folder: Path, count: int = 5000) -> None:
    """Time the journal by itself."""
    store = Store.open(str(folder / "alone.sqlite"))
    thread = OneThread(reactor.callFromThread)
    journal = Journal(store, thread, reactor, time.time, keep=Keep(), outliving=lambda _: False)
    journal.start(store.load())
    jobs = iter([make_job(number, size=500) for number in range(1, count + 1)])

    async def client() -> None:
        for job in jobs:
            await journal.accept(job)

    async def run() -> None:
        began, worked = time.perf_counter(), time.process_time()
        await gatherResults([Deferred.fromCoroutine(client()) for _ in range(CLIENTS)])
        took, worked = time.perf_counter() - began, time.process_time() - worked
        print(f"journal: {count / took:.0f} prompts a second, {1e6 * worked / count:.0f} µs of a processor each")
        await journal.close()
        thread.end()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run()).addBoth(lambda _: reactor.stop()))
    reactor.run()


def compare(folder: Path, options: argparse.Namespace) -> None:
    ratios = []
    for number in range(1, options.rounds + 1):
        found = measure(folder / str(number), options)
        ratios.append(found["on"].rate / found["off"].rate)
        print(f"round {number}: {told('off', found['off'])}; {told('on', found['on'])}; ratio {ratios[-1]:.2f}")
    print(f"ratio: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}, most {max(ratios):.2f}")


def told(journal: str, figures: Figures) -> str:
    latencies = f"p50 {figures.p50:.1f} ms, p99 {figures.p99:.1f} ms"
    return f"{journal} {figures.rate:.0f}/s, {latencies}, {figures.processor:.2f} ms of a processor"


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Figures]:
    """Send prompts to two daemons in turns."""
    bursts = {"off": list[Burst](), "on": list[Burst]()}
    with ExitStack() as stack:
        gateways = {}
        for journal in bursts:
            (folder / journal).mkdir(parents=True)
            config = f"rate = 0\njournal = {journal}\nshutdown_grace = 0\n"
            gateways[journal] = stack.enter_context(running(folder / journal, config, gpus=options.gpus))
        for number in range(max(1, options.requests // options.burst)):
            for journal in list(bursts)[:: 1 if number % 2 else -1]:
                bursts[journal].append(burst(gateways[journal], options))
    return {journal: figures(found) for journal, found in bursts.items()}


def figures(bursts: list[Burst]) -> Figures:
    took = sorted(one for burst in bursts for one in burst.took)
    return Figures(
        rate=len(took) / sum(burst.seconds for burst in bursts),
        p50=1000 * statistics.median(took),
        p99=1000 * took[int(len(took) * 0.99)],
        processor=1000 * sum(burst.processor for burst in bursts) / len(took),
    )


def burst(gateway: Gateway, options: argparse.Namespace) -> Burst:
    bodies = iter([orjson.dumps({"prompt": workflow(options.work)}) for _ in range(options.burst)])
    took: list[float] = []
    worked, began = processor_time(gateway.pid), time.perf_counter()
    clients = [threading.Thread(target=send, args=(gateway, bodies, took)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return Burst(took, time.perf_counter() - began, processor_time(gateway.pid) - worked)


def processor_time(pid: int) -> float:
    """Seconds that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def send(gateway: Gateway, bodies: Iterator[bytes], took: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.hub, timeout=60)
    for body in bodies:
        began = time.perf_counter()
        connection.request("POST", "/prompt", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        took.append(time.perf_counter() - began)
    connection.close()


if __name__ == "__main__":
    main()
