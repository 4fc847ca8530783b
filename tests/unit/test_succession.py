import pytest

from comfygate.routing.succession import heir

GATES = {
    "gpu-0": frozenset({0}),
    "gpu-1": frozenset({1}),
    "pair": frozenset({0, 1}),
    "hub": frozenset({0, 1, 2}),
}


@pytest.mark.parametrize(
    ("gate", "targets", "expected"),
    [
        ("pair", {0, 1}, "pair"),
        ("hub", {1}, "hub"),
        ("gone", {1}, "gpu-1"),
        ("gone", {0, 1}, "pair"),
        ("gone", {0, 2}, "hub"),
        ("gpu-0", {1, 5}, "gpu-1"),
        ("gone", {2, 7}, "hub"),
    ],
)
def test_who_takes_over(gate: str, targets: set[int], expected: str) -> None:
    assert heir(gate, frozenset(targets), GATES) == expected


def test_nobody_reaches_what_is_gone() -> None:
    with pytest.raises(ValueError, match="no gate reaches any of GPUs 7, 9"):
        heir("hub", frozenset({9, 7}), GATES)
