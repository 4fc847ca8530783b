"""Where prompts go on whose gate is gone, or no longer has a GPU that may run them: a pure function."""

from __future__ import annotations

from collections.abc import Collection, Mapping

HUB = "hub"


def heir(gate_name: str, targets: Collection[int], gates: Mapping[str, Collection[int]]) -> str:
    """Which gate's policy is to be asked for a waiting job.

    :param gate_name: the gate that it waits at.
    :param targets: gpu_ids that may run it.
    :param gates: the set of each gate there is now, in order.
    :return: the same gate, as long as one of its GPUs may run the job.  Else,
        of those that cover the most of its targets, the hub or the smallest.
        The same gate, too, if none of the targets is left: the job waits until
        one is put back.
    """
    wanted = frozenset(targets)
    covered = {name: len(wanted.intersection(gpu_ids)) for name, gpu_ids in gates.items()}
    most = max(covered.values(), default=0)
    if covered.get(gate_name) or not most:
        return gate_name
    best = [name for name in gates if covered[name] == most]
    return HUB if HUB in best else min(best, key=lambda name: len(gates[name]))
