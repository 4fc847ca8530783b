"""The load that policies are compared with: prompts over models of unequal popularity."""

from __future__ import annotations

import random
from itertools import accumulate
from typing import Any

from attrs import frozen

PROMPTS = 400
MODELS = 6
GPUS = 4
CLIENTS = 8


@frozen
class Prompt:
    """:ivar arrives: in run times from the beginning."""

    number: int
    arrives: float
    model: str
    client: str


@frozen
class Load:
    """Prompts in the order of their arrival, and what it takes to load each model, in run times."""

    prompts: tuple[Prompt, ...]
    loads: dict[str, float]


def make_load(seed: int, rate: float | None) -> Load:
    """Draw a load.

    :param rate: prompts that arrive per run time, on average; ``None``: all at once.
    """
    dice: Any = random.Random(seed)
    names = [f"model-{number}" for number in range(MODELS)]
    loads = {name: dice.uniform(2.0, 8.0) for name in names}
    popularity = list(accumulate(1.0 / rank for rank in range(1, MODELS + 1)))  # Zipf
    now = 0.0
    prompts = []
    for number in range(PROMPTS):
        now += 0.0 if rate is None else dice.expovariate(rate)
        model = dice.choices(names, cum_weights=popularity)[0]
        prompts.append(Prompt(number, now, model, f"client-{dice.randrange(CLIENTS)}"))
    return Load(tuple(prompts), loads)


def lower_bound(load: Load) -> float:
    """No order can end earlier: all runs, and one load of each model, shared evenly; nor before the last has run."""
    used = {prompt.model for prompt in load.prompts}
    work = len(load.prompts) + sum(load.loads[model] for model in used)
    return max(work / GPUS, load.prompts[-1].arrives + 1.0)
