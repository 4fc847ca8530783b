"""When a backend is dialled again."""

from comfygate.gate.dialling import A_SECOND, AT_ONCE, DELAYS, PATIENCE, STEADY, Failures, dial_bucket


def delay(failures: int) -> float:
    return float(10 * failures)


def test_failures_in_a_row_are_waited_out_ever_longer_and_not_for_ever() -> None:
    failures = Failures()
    assert [failures.delay(now, 0.0, delay) for now in (5.0, 6.0, 7.0)] == [0, 10, 20]
    assert failures.delay(5 + PATIENCE - 1, STEADY - 1, delay) == 30
    assert failures.delay(5 + PATIENCE, 0.0, delay) is None
    failures.forget()
    assert failures.delay(5 + PATIENCE, 0.0, delay) == 0


def test_a_failure_after_a_steady_connection_is_the_first() -> None:
    failures = Failures()
    assert [failures.delay(now, 0.0, delay) for now in (0.0, 1.0)] == [0, 10]
    assert failures.delay(1000.0, STEADY, delay) == 0
    assert failures.delay(1001.0, 0.0, delay) == 10


def test_delays_are_bounded() -> None:
    assert all(0.25 <= DELAYS(0) <= 1.25 for _ in range(20))
    assert all(10 <= DELAYS(50) <= 11 for _ in range(20))


def test_dials_come_in_bursts_that_are_bounded() -> None:
    bucket = dial_bucket()
    waits = [bucket.take(0.0, float("inf"))[1] for _ in range(AT_ONCE + 2)]
    assert waits == [0.0] * AT_ONCE + [1 / A_SECOND, 2 / A_SECOND]
