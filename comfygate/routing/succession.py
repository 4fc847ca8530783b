"""Who takes over the waiting jobs of a port that is gone."""

from __future__ import annotations

from collections.abc import Mapping


def heir(gate: str, targets: frozenset[int], gates: Mapping[str, frozenset[int]]) -> str:
    """The gate under whose policy a job goes on to wait.

    :param gate: that under which it waited.
    :param targets: the GPUs that may run it; at least one of them is behind some gate.
    :param gates: the gates that there are, with their GPUs.
    :return: `gate` if that is still there and reaches a target; else one that
        reaches the most of them, and few others.
    :raises ValueError: if no gate reaches any.
    """
    if gates.get(gate, frozenset()) & targets:
        return gate
    reaching = [name for name, gpu_ids in gates.items() if gpu_ids & targets]
    if not reaching:
        raise ValueError(f"no gate reaches any of GPUs {', '.join(map(str, sorted(targets)))}")
    return min(reaching, key=lambda name: (-len(gates[name] & targets), len(gates[name]), name))
