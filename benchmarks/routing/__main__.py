"""How long it takes until all prompts have run, by policy.

400 prompts over 6 models of Zipf popularity, whose load takes 2 to 8 runs, on
4 GPUs that hold one model each, arriving at once and at two per run time.  The
daemon's own queue, costs and policies are run in simulated time, with many
seeds; with --real, one seed runs on a whole daemon with four simulators, too.
Prints tables, and says whether affinity keeps its promises; --save also writes
results.json and makespans.svg beside this file.

    python -m benchmarks.routing --seeds 100 --real --save
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.routing.load import lower_bound, make_load
from benchmarks.routing.real import measure
from benchmarks.routing.report import Figures, Result, figures, plot, save, table
from benchmarks.routing.simulation import Outcome, bound_on_arrival, simulate
from comfygate.routing.affinity import Affinity
from comfygate.routing.fair import Fair
from comfygate.routing.least_loaded import LeastLoaded
from comfygate.routing.most_free_memory import MostFreeMemory
from comfygate.routing.round_robin import RoundRobin
from comfygate.routing.sticky import StickyByClient
from comfygate.routing.weighted import Weighted

ARRIVALS = {"at once": None, "two per run time": 2.0}
POLICIES: dict[str, Callable[[], object]] = {
    "affinity": Affinity,
    "fair:within=affinity": Fair,
    "least-loaded": LeastLoaded,
    "most-free-memory": MostFreeMemory,
    "round-robin": RoundRobin,
    "sticky-by-client": StickyByClient,
    "weighted": Weighted,
}
ON_ARRIVAL = ("round-robin on arrival", "shortest queue on arrival")
REAL = ("affinity", "least-loaded", *ON_ARRIVAL)
PROMISED = {"at once": 0.3, "two per run time": 0.5}
PROMISED_TO_BOUND = 1.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--real", action="store_true", help="run the first seed on a daemon with simulators, too")
    parser.add_argument("--run", type=float, default=0.4, help="seconds that a run takes there")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    found: dict[str, dict[str, dict[str, Figures]]] = {"simulated": {}, "real": {}}
    for arrival, rate in ARRIVALS.items():
        found["simulated"][arrival] = rows = simulated(rate, options.seeds)
        print(f"\n{arrival}, {options.seeds} seeds in simulated time; times in runs\n\n{table(rows)}")
    if options.real:
        for arrival, rate in ARRIVALS.items():
            found["real"][arrival] = rows = real(rate, options.run)
            print(f"\n{arrival}, four simulators, {options.run:g} s a run; times in runs\n\n{table(rows)}")
    print()
    for kind, groups in found.items():
        for arrival, rows in groups.items():
            judge(f"{kind}, {arrival}", rows["affinity"], PROMISED[arrival])
    if options.save:
        here = Path(__file__).parent
        save(here / "results.json", {"seeds": options.seeds, "run_seconds": options.run, **found})
        plot(here / "makespans.svg", found["simulated"])


def simulated(rate: float | None, seeds: int) -> dict[str, Figures]:
    results: dict[str, list[Result]] = {}
    for seed in range(seeds):
        load = make_load(seed, rate)
        bound = lower_bound(load)
        outcomes: dict[str, Outcome] = {name: simulate(load, make()) for name, make in POLICIES.items()}
        outcomes |= {name: bound_on_arrival(load, name) for name in ON_ARRIVAL}
        for name, outcome in outcomes.items():
            longest = outcomes["shortest queue on arrival"].makespan
            results.setdefault(name, []).append(Result(outcome, bound, longest))
    return {name: figures(found) for name, found in results.items()}


def real(rate: float | None, run: float) -> dict[str, Figures]:
    load = make_load(0, rate)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = {way: measure(Path(folder) / way.replace(" ", "-"), load, way, run) for way in REAL}
    longest = outcomes["shortest queue on arrival"].makespan
    return {name: figures([Result(outcome, lower_bound(load), longest)]) for name, outcome in outcomes.items()}


def judge(where: str, row: Figures, promised: float) -> None:
    """Say whether affinity keeps what it promises."""
    kept = row["to_shortest_queue"] <= promised and row["to_bound_worst"] <= PROMISED_TO_BOUND
    kept = kept and (row["overtaken"] or 0) <= Affinity().overtake
    verdict = "kept" if kept else "BROKEN"
    print(
        f"{where}: affinity needs {row['to_shortest_queue']:.3f} of the shortest queue (at most {promised}) and "
        f"at worst {row['to_bound_worst']:.3f} of the bound (at most {PROMISED_TO_BOUND}): {verdict}"
    )


if __name__ == "__main__":
    main()
