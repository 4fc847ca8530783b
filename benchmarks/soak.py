"""A day's work in half an hour: whether anything is lost, and whether anything grows.

Starts four simulated GPUs and the hub, sends requests to every port at a steady
pace (prompts, looks at queue and history, pictures, uploads) while WebSocket
clients listen, some of them slowly, some coming and going.  Every ten seconds
it notes the daemon's memory, descriptors, threads and the size of its journal.
In the end every accepted prompt must have ended exactly once, and none of the
four may have grown after the warm-up.

    python -m benchmarks.soak --minutes 30

Prints a table, and exits with 1 if something grew or was lost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from benchmarks.traffic import traffic
from tests.faults.verdict import Verdict
from tests.faults.witness import Witness, witnessed
from tests.gateway import Gateway, resident_kib

CONFIG = "burst = 40\nkeep_finished = 2000\n"
"""The journal is full after two minutes."""

SKIMMED = 200
"""Prompts that one GPU may end between two samples, and more."""

WARM_UP = 0.4
"""Part of the time in which caches fill: the daemon remembers 10,000 ended prompts."""


@frozen
class Sample:
    """What the daemon held at one moment.

    :ivar at: seconds since the start.
    :ivar rss: resident memory in MiB.
    :ivar journal: size of its files in MiB.
    :ivar prompts: how many were accepted so far.
    """

    at: float
    rss: float
    descriptors: float
    threads: float
    journal: float
    prompts: int = 0


@frozen
class Bound:
    """How far a figure may grow and still count as flat: a part of it, or so much, whichever is more."""

    name: str
    part: float
    least: float


BOUNDS = (
    Bound("rss", 0.05, 6.0),
    Bound("descriptors", 0.1, 12.0),
    Bound("threads", 0.0, 3.0),
    Bound("journal", 0.2, 4.0),
)


@frozen
class Growth:
    """How a figure went on after the warm-up.

    :ivar first: its mean in the first third.
    :ivar last: its mean in the last third.
    :ivar slope: what the line through all samples gains over their whole time.
    :ivar allowed: what counts as flat.
    """

    name: str
    first: float
    last: float
    slope: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it did not grow."""
        return max(self.last - self.first, self.slope) <= self.allowed


def growths(samples: Sequence[Sample]) -> list[Growth]:
    """Judge every figure."""
    settled = samples[int(len(samples) * WARM_UP) :]
    return [_growth(bound, settled) for bound in BOUNDS]


def _growth(bound: Bound, samples: Sequence[Sample]) -> Growth:
    values = [float(getattr(sample, bound.name)) for sample in samples]
    third = max(1, len(values) // 3)
    slope = 0.0
    if len(samples) > 1:
        times = [sample.at for sample in samples]
        slope = statistics.linear_regression(times, values).slope * (times[-1] - times[0])
    first, last = statistics.fmean(values[:third]), statistics.fmean(values[-third:])
    return Growth(bound.name, first, last, slope, max(bound.part * first, bound.least))


def sample(gateway: Gateway, began: float, prompts: int) -> Sample:
    """Look at the daemon from outside."""
    folder = gateway.journal.parent
    journal = sum(path.stat().st_size for path in folder.glob(gateway.journal.name + "*"))
    return Sample(
        at=time.monotonic() - began,
        rss=resident_kib(gateway.pid) / 1024,
        descriptors=len(os.listdir(f"/proc/{gateway.pid}/fd")),
        threads=len(os.listdir(f"/proc/{gateway.pid}/task")),
        journal=journal / 2**20,
        prompts=prompts,
    )


@frozen
class Soaked:
    """What came of it.

    :ivar answers: how often each status was answered; 0 for no answer.
    """

    samples: Sequence[Sample]
    answers: Counter[int]
    verdict: Verdict


def soak(
    folder: Path,
    seconds: float,
    *,
    rate: float = 10.0,
    sockets: int = 50,
    every: float = 10.0,
    show: Callable[[Sample], None] = lambda sample: None,
) -> Soaked:
    """Run a daemon under load, and judge what became of the prompts.

    :param every: seconds between two samples.
    :param show: called with each sample.
    """
    with witnessed(folder, CONFIG, rate=2 * rate) as (gateway, witness):
        samples: list[Sample] = []
        files: deque[str] = deque(maxlen=200)
        began = time.monotonic()
        with traffic(witness, rate, sockets, files) as answers:
            while time.monotonic() - began < seconds:
                time.sleep(every)
                witness.skim(SKIMMED)
                files.extend(_pictures(witness))
                samples.append(sample(gateway, began, len(witness.histories)))
                show(samples[-1])
            answered = answers()
        # The journal no longer knows them all.
        verdict = witness.end(journal=False)
    return Soaked(samples, answered, verdict)


def _pictures(witness: Witness) -> Iterator[str]:
    """Names of the pictures that the newest prompts have made."""
    for prompt_id in list(witness.histories)[-50:]:
        for output in witness.histories[prompt_id].get("outputs", {}).values():
            yield from (image["filename"] for image in output.get("images", ()))


def main() -> None:
    """Soak as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second and port")
    parser.add_argument("--sockets", type=int, default=50, help="WebSocket clients")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two samples")
    options = parser.parse_args()
    print(f"{'s':>6} {'RSS MiB':>8} {'fds':>5} {'threads':>7} {'journal MiB':>11} {'prompts':>8}")
    with tempfile.TemporaryDirectory(prefix="comfygate-soak-") as folder:
        soaked = soak(
            Path(folder),
            60 * options.minutes,
            rate=options.rate,
            sockets=options.sockets,
            every=options.every,
            show=_print_sample,
        )
    sys.exit(not _print_outcome(soaked))


def _print_sample(one: Sample) -> None:
    print(
        f"{one.at:6.0f} {one.rss:8.1f} {one.descriptors:5.0f} {one.threads:7.0f} {one.journal:11.2f} {one.prompts:8}",
        flush=True,
    )


def _print_outcome(soaked: Soaked) -> bool:
    """Print the judgement, and return whether all is well."""
    answers = (f"{count} x {status or 'none'}" for status, count in soaked.answers.most_common())
    print(f"\nanswers: {', '.join(answers)}")
    print(f"\n{'':12} {'first third':>11} {'last third':>11} {'slope':>8} {'allowed':>8}")
    found = growths(soaked.samples)
    for one in found:
        judgement = "flat" if one.flat else "GROWS"
        print(f"{one.name:12} {one.first:11.1f} {one.last:11.1f} {one.slope:+8.1f} {one.allowed:8.1f}  {judgement}")
    print(f"\n{soaked.verdict.report()}")
    return all(one.flat for one in found) and not soaked.verdict.problems


if __name__ == "__main__":
    main()
