"""Rate limits, budgets, circuit limits and faults under a clock that the test turns."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.routing import ValueMatch
from mesh.model.traffic import CircuitLimits, Fault, RateLimit, RateLimitKey, RetryBudget
from mesh.resilience.circuit import CircuitBreaker, Resource
from mesh.resilience.fault import NO_FAULT, FaultInjector
from mesh.resilience.rate_limit import RateLimiter, TokenBucket
from mesh.resilience.retry_budget import RetryBudgetMeter


@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 8).map(lambda eighths: eighths / 8), min_size=1, max_size=60),
    burst=st.integers(1, 5),
)
def test_a_bucket_passes_exactly_what_fluid_arithmetic_allows(
    gaps: list[float], burst: int
) -> None:
    bucket, level, now = TokenBucket(4.0, burst, 0.0), float(burst), 0.0
    for gap in gaps:
        now += gap
        level = min(float(burst), level + gap * 4)
        allowed = level >= 1
        assert bucket.take(now) is allowed
        level -= allowed


def test_a_bucket_says_when_to_come_back() -> None:
    bucket = TokenBucket(2.0, 1, 0.0)
    assert bucket.take(0.0)
    assert bucket.wait_s(0.1) == pytest.approx(0.4)
    assert not bucket.take(0.1)
    assert not bucket.take(-5.0)
    assert bucket.take(0.5)


def _limit(key: RateLimitKey, *, shadow: bool = False) -> RateLimiter:
    limit = RateLimit(requests=1, per_s=1.0, burst=1, key=key, header="x-user", shadow=shadow)
    return RateLimiter(limit, most_keys=2)


def test_total_identity_and_header_limits() -> None:
    total, identity = _limit(RateLimitKey.TOTAL), _limit(RateLimitKey.IDENTITY)
    header = _limit(RateLimitKey.HEADER)
    assert [total.decide(who, {}, 0.0).allowed for who in ("a", "b")] == [True, False]
    assert [identity.decide(who, {}, 0.0).allowed for who in ("a", "b", "a")] == [True, True, False]
    asked = [header.decide("a", {"x-user": user}, 0.0).allowed for user in ("1", "2", "1")]
    assert asked == [True, True, False]
    refused = total.decide("c", {}, 0.25)
    assert (refused.remaining, refused.retry_after_s) == (0, 0.75)


def test_buckets_are_bounded() -> None:
    limiter = _limit(RateLimitKey.IDENTITY)
    for number in range(10):
        limiter.decide(str(number), {}, 0.0)
    assert len(limiter) == 2


def test_shadow_mode_counts_and_refuses_nothing() -> None:
    limiter = _limit(RateLimitKey.TOTAL, shadow=True)
    decisions = [limiter.decide(None, {}, 0.0) for _ in range(2)]
    assert [(item.allowed, item.limited) for item in decisions] == [(True, False), (True, True)]


def test_a_retry_budget_is_a_share_plus_a_floor() -> None:
    budget = RetryBudget(percent=20, interval_s=10, min_per_s=0.1)
    meter = RetryBudgetMeter(budget, 100.0)
    assert [meter.allow_retry(100.0) for _ in range(2)] == [True, False]
    for _ in range(50):
        meter.count_request(101.0)
    assert [meter.allow_retry(101.0) for _ in range(10)].count(True) == 9
    assert not meter.allow_retry(105.0)
    # All of it is older than the interval: only the floor is left.
    assert [meter.allow_retry(130.0) for _ in range(2)] == [True, False]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=80),
    st.sampled_from([10, 20, 50]),
)
def test_a_budget_never_allows_more_than_its_share(
    events: list[tuple[int, bool]], percent: int
) -> None:
    meter, now = RetryBudgetMeter(RetryBudget(percent=percent, min_per_s=0.1), 0.0), 0.0
    requests: list[float] = []
    retries: list[float] = []
    for gap, is_retry in events:
        now += gap
        # Slots are a second long: whatever the meter counts is younger than the interval.
        recent = [at for at in requests if at > now - 10]
        spent = [at for at in retries if at > now - 10]
        if not is_retry:
            meter.count_request(now)
            requests.append(now)
        elif meter.allow_retry(now):
            retries.append(now)
            assert len(spent) + 1 <= max(1.0, len(recent) * percent / 100)
        else:
            assert len(spent) + 1 > max(1.0, len(recent) * percent / 100)


def test_circuit_limits() -> None:
    breaker = CircuitBreaker(CircuitLimits(max_requests=2, max_retries=0))
    assert [breaker.acquire(Resource.REQUESTS) for _ in range(3)] == [True, True, False]
    assert breaker.remaining(Resource.REQUESTS) == 0
    breaker.release(Resource.REQUESTS)
    assert breaker.acquire(Resource.REQUESTS)
    assert not breaker.acquire(Resource.RETRIES)
    assert breaker.rejected[Resource.REQUESTS] == 1
    assert all(breaker.acquire(Resource.CONNECTIONS) for _ in range(5000))
    assert breaker.remaining(Resource.CONNECTIONS) is None
    with pytest.raises(ValueError, match="more released"):
        breaker.release(Resource.PENDING)


def test_faults_by_percentage_and_header() -> None:
    tester = (ValueMatch(name="x-test", value="1"),)
    faults = FaultInjector(
        [
            Fault(headers=tester, http_status=418, abort_percent=100),
            Fault(delay_s=2.0, delay_percent=25, grpc_status=14, abort_percent=10),
        ]
    )
    random = Random(3)
    assert faults.decide({"x-test": "1"}, random).http_status == 418
    drawn = [faults.decide({}, random) for _ in range(4000)]
    assert 900 < sum(item.delay_s == 2.0 for item in drawn) < 1100
    assert 330 < sum(item.aborts for item in drawn) < 470
    assert FaultInjector([]).decide({}, random) is NO_FAULT
    assert FaultInjector([Fault(delay_s=1.0)]).decide({}, random) is NO_FAULT
