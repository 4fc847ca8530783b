"""How long one decision takes over 5,000 waiting jobs and 8 GPUs, by policy; in milliseconds, the best of five.

Clients are 1, 50 or 5,000, and jobs need one of 6 or 300 models, besides one
that all need.  In each shape each of these is decided upon, and the slowest shown:

- fits: each GPU has room, and some of the models;
- loads: each GPU has room, but runs something, and has none of the models;
- one: as before, but one GPU alone has room;
- elsewhere: one GPU has room, and no job may run there.

"sets" is how many sets of GPUs there are that jobs are restricted to.

    python -m benchmarks.routing.decisions
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from comfygate.interfaces import IRoutingPolicy
from comfygate.line import Line
from comfygate.model import BackendView
from comfygate.routing.costs import Costs
from comfygate.routing.registry import Policies
from comfygate.routing.shares import Shares
from comfygate.testing import job, view

JOBS, GPUS = 5_000, 8
POLICIES = (
    *(("fair", {"within": within}) for within in ("affinity", "least-loaded", "sticky-by-client")),
    *((name, {}) for name in ("affinity", "least-loaded", "most-free-memory", "sticky-by-client", "weighted")),
)


def waiting(dice: random.Random, clients: int, models: int, sets: int, gpus: int) -> Line:
    """Clients that had different shares, and their jobs; what is built on the first decision is there."""
    shares = Shares()
    for _ in range(clients // 2):
        shares.charge(str(dice.randrange(clients)), dice.uniform(1.0, 60.0))
    targets = [dice.sample(range(gpus), dice.randint(1, gpus)) for _ in range(sets - 1)] + [range(gpus)]
    line = Line(
        (
            job(
                client_id=str(number % clients),
                models=[f"m{dice.randrange(models)}", "all"],
                targets=dice.choice(targets),
                shape=str(dice.randrange(20)),
            )
            for number in range(JOBS)
        ),
        shares.due,
    )
    for own in (line, *line.clients().values()):
        own.heads()
    return line


def states(costs: Costs) -> dict[str, list[BackendView]]:
    def gpus(held: Sequence[int], loaded: str) -> list[BackendView]:
        return [
            view(n, running=min(1, held[n]), pending=held[n] // 2, loaded=[loaded, "all"], estimates=costs.on(n))
            for n in range(GPUS)
        ]

    one = [2] * (GPUS - 1) + [1]
    return {
        "fits": gpus([1] * GPUS, "m0"),
        "loads": gpus([1] * GPUS, "none"),
        "one": gpus(one, "none"),
        "elsewhere": gpus(one, "m0"),
    }


def milliseconds(policy: IRoutingPolicy, line: Line, views: Sequence[BackendView]) -> float:
    took = []
    for _ in range(5):
        began = time.process_time()
        policy.select(line, views, 0.0)
        took.append(time.process_time() - began)
    return 1000 * min(took)


def main() -> None:
    policies = Policies.installed()
    made = {",".join([name, *given.values()]): policies.make("routing", name, given) for name, given in POLICIES}
    costs = Costs()
    print(f"| clients | models | sets | {' | '.join(made)} |\n|{'---|' * (3 + len(made))}")
    for clients in (1, 50, 5_000):
        for models, sets in ((6, 1), (6, 12), (300, 1)):
            dice = random.Random(1)
            shapes = {gpus: waiting(dice, clients, models, sets, gpus) for gpus in (GPUS, GPUS - 1)}
            row = []
            for policy in made.values():
                took = {
                    name: milliseconds(policy, shapes[GPUS - (name == "elsewhere")], views)
                    for name, views in states(costs).items()
                }
                slowest = max(took, key=lambda name: took[name])
                row.append(f"{took[slowest]:.2f} {slowest}")
            print(f"| {clients:,} | {models} | {sets} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
