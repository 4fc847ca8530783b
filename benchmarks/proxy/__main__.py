"""ComfyGate beside nginx and HAProxy, in turns, on this machine.

Every scenario is measured at every proxy within the same minutes, each time in
another order, and told as medians and as ratios within those rounds.  Needs
nginx, HAProxy and wrk.  With COMFYUI_HOME set (and COMFYUI_PYTHON), also with a
real ComfyUI behind.  What is found is kept in build/proxy; --save also writes
results.json and ratios.svg beside this file.  Ctrl-C ends it with what there is.

    python -m benchmarks.proxy --pairs 5 --only GET images
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
from pathlib import Path

from benchmarks.proxy.catalogue import PLOTTED, PROMISES, SCENARIOS
from benchmarks.proxy.course import Course, Found, run
from benchmarks.proxy.report import Verdict, judge, kept, plot, save, table
from benchmarks.proxy.scenario import Scenario
from benchmarks.proxy.servers import ROOT, missing, variants

FILES = 20_000
KEPT = ROOT / "build" / "proxy"


def main() -> None:
    options = parse()
    if options.show:
        show(kept(options.show))
        return
    scenarios = chosen(options.only)
    if options.list:
        print("\n".join(scenario.name for scenario in scenarios))
        return
    absent = missing()
    if absent:
        print(f"This compares with nginx and HAProxy, and puts load on with wrk: apt install {' '.join(absent)}")
        return
    if not scenarios:
        print(f"No scenario is called so: {' '.join(options.only)}; --list lists them")
        sys.exit(2)
    measure(scenarios, options)


def measure(scenarios: list[Scenario], options: argparse.Namespace) -> None:
    names = tuple(name for name in variants() if name in (options.variants or variants()))
    course = Course(options.pairs, options.seconds, names, 0 if options.pin else None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is ended
    allow_many_files()
    found: Found = {}
    try:
        run(scenarios, course, found)
    except KeyboardInterrupt:
        print("\nStopped before the end: these are the figures until here.")
    show(found)
    how = {"pairs": course.pairs, "seconds": course.seconds, "pinned": options.pin}
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / time.strftime("%Y-%m-%d-%H%M%S.json")
    save(path, found, verdicts(found), how)
    print(f"\nAll figures: {path}")
    if options.save:
        here = Path(__file__).parent
        save(here / "results.json", found, verdicts(found), how)
        plot(here / "ratios.svg", found, PLOTTED)


def show(found: Found) -> None:
    """Print the medians, the ratios, and what they say about the promises."""
    print(f"\nMedians, and medians of the ratios within each round:\n\n{table(found)}\n")
    print("\n".join(map(str, verdicts(found))))


def verdicts(found: Found) -> list[Verdict]:
    """Of those promises that have been looked at."""
    return judge(found, [promise for promise in PROMISES if promise.scenario in found])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="rounds in which everybody is measured once")
    parser.add_argument("--seconds", type=float, default=2.0, help="that one measurement takes")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="scenarios with one of these in their name"
    )
    parser.add_argument("--variants", nargs="+", choices=variants(), help="what is measured; all, unless given")
    parser.add_argument("--pin", action="store_true", help="proxies on core 0, everything else on the other cores")
    parser.add_argument("--save", action="store_true", help="write results.json and ratios.svg")
    parser.add_argument("--list", action="store_true", help="only list the scenarios")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only print the figures in a file")
    return parser.parse_args()


def allow_many_files() -> None:
    """For ourselves and all that we start: each connection is one on both sides of a proxy."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, FILES)), hard))


def chosen(only: list[str]) -> list[Scenario]:
    """Those that are asked for; case does not matter."""
    return [one for one in SCENARIOS if not only or any(word.lower() in one.name.lower() for word in only)]


if __name__ == "__main__":
    main()
