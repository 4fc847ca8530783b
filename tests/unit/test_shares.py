from collections import Counter

from comfygate.routing.shares import MOST, Shares


def served(shares: Shares, amounts: dict[str, float], times: int) -> Counter[str]:
    """Serve who is due, again and again."""
    found: Counter[str] = Counter()
    for _ in range(times):
        taker = min(amounts, key=lambda one: (shares.due(one), one))
        shares.charge(taker, amounts[taker])
        found[taker] += 1
    return found


def test_everyone_gets_the_same_amount() -> None:
    assert served(Shares(), {"small": 1.0, "large": 3.0}, 400) == {"small": 300, "large": 100}


def test_a_pause_earns_nothing() -> None:
    shares = Shares()
    served(shares, {"busy": 1.0}, 1000)
    found = served(shares, {"busy": 1.0, "back": 1.0}, 100)
    assert abs(found["busy"] - found["back"]) <= 2


def test_few_are_remembered() -> None:
    shares = Shares()
    for number in range(MOST + 10):
        shares.charge(number, 1000.0)
    assert shares.due(0) <= shares.due(MOST + 9)
    shares.forget(MOST + 9)
    assert shares.due(MOST + 9) < 1000.0 * MOST
