from comfygate.bucket import Buckets, TokenBucket


def test_a_full_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=10, burst=20)
    assert [bucket.take(100.0)[0] for _ in range(21)] == [True] * 20 + [False]
    assert bucket.take(100.05)[0] is False
    assert bucket.take(100.1001)[0] is True
    assert bucket.take(100.1001)[0] is False


def test_a_refusal_says_when_to_come_back_and_takes_nothing() -> None:
    bucket = TokenBucket(rate=10, burst=1)
    bucket.take(0.0)
    granted, wait = bucket.take(0.04)
    assert not granted
    assert abs(wait - 0.06) < 1e-9
    assert bucket.take(0.04 + wait + 1e-9)[0] is True


def test_waiting_reserves_tokens_of_the_future_in_order() -> None:
    bucket = TokenBucket(rate=10, burst=1)
    waits = [bucket.take(0.0, max_wait=0.25) for _ in range(4)]
    assert [granted for granted, _ in waits] == [True, True, True, False]
    assert [round(wait, 3) for _, wait in waits] == [0.0, 0.1, 0.2, 0.3]


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=10, burst=2)
    assert sum(bucket.take(1_000_000.0)[0] for _ in range(5)) == 2
    assert sum(bucket.take(2_000_000.0)[0] for _ in range(5)) == 2


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bucket = TokenBucket(rate=10, burst=1)
    assert bucket.take(100.0)[0]
    assert not bucket.take(50.0)[0]
    assert not bucket.take(100.05)[0]
    assert bucket.take(100.11)[0]


def test_no_rate_means_no_limit() -> None:
    bucket = TokenBucket(rate=0, burst=0)
    assert all(bucket.take(0.0) == (True, 0.0) for _ in range(1000))


def test_keys_have_buckets_of_their_own_within_a_bound() -> None:
    buckets = Buckets(rate=1, burst=1, most=2)
    assert buckets.take("a", 0.0)[0]
    assert not buckets.take("a", 0.0)[0]
    assert buckets.take("b", 0.0)[0]
    assert buckets.take("c", 0.0)[0]
    assert len(buckets) == 2
    assert not buckets.take("b", 0.0)[0]
