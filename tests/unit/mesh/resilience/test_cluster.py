"""Playbooks of a cluster: choices, judges and limits together, event by event."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.balance.hashing import hash64
from mesh.model.traffic import (
    Algorithm,
    CircuitLimits,
    HashKey,
    HashSource,
    LoadBalancing,
    OutlierDetection,
    RetryBudget,
)
from mesh.resilience.circuit import Resource, share_limits
from mesh.resilience.cluster import Cluster, ClusterRules, Lease, Refusal, Seat
from mesh.resilience.outlier import HealthState, Outcome

TURNS = LoadBalancing(algorithm=Algorithm.ROUND_ROBIN)
JUDGE = OutlierDetection(consecutive_failures=2, base_ejection_s=10, jitter=0)


@dataclass(slots=True, eq=False)
class Pod:
    """An endpoint."""

    name: str
    active: int = 0


def seats(names: str, far: str = "") -> list[Seat[Pod]]:
    return [Seat(endpoint=Pod(name), name=name, distance=int(name in far)) for name in names]


def cluster(rules: ClusterRules, members: list[Seat[Pod]]) -> Cluster[Pod]:
    made = Cluster[Pod](rules, Random(1), 0.0)
    made.replace(members, 0.0)
    return made


def take(
    of: Cluster[Pod], now: float = 0.0, avoid: Pod | None = None, wanted: Pod | None = None
) -> Lease[Pod]:
    lease = of.take(now, avoid=avoid, wanted=wanted)
    assert isinstance(lease, Lease)
    return lease


def end(lease: Lease[Pod], outcome: Outcome = Outcome.OK, now: float = 0.0) -> str:
    lease.judge(outcome, now)
    lease.release(now)
    return lease.endpoint.name


def test_a_lease_counts_once_and_ends_once() -> None:
    here = cluster(ClusterRules(limits=CircuitLimits(max_requests=2)), seats("a"))
    first, second = take(here), take(here)
    assert here.take(0.0) is Refusal.OVERFLOW
    assert first.endpoint.active == 2
    for _ in range(2):
        first.release(0.0)
    first.judge(Outcome.LOCAL_FAILURE, 0.0)  # too late to count
    assert first.endpoint.active == 1
    second.release(0.0)
    assert here.breaker.active(Resource.REQUESTS) == 0


def test_nobody_is_there() -> None:
    here = cluster(ClusterRules(), [])
    assert here.take(0.0) is Refusal.NO_ENDPOINT
    assert here.name_of(Pod("x")) == ""
    assert here.find(7) is None


def test_the_one_that_failed_is_avoided_and_the_one_that_is_wanted_taken() -> None:
    members = seats("abc")
    here = cluster(ClusterRules(load_balancing=TURNS, outlier_detection=JUDGE), members)
    a = members[0].endpoint
    assert {end(take(here, avoid=a)) for _ in range(20)} == {"b", "c"}
    assert {end(take(here, wanted=a)) for _ in range(20)} == {"a"}
    assert here.find(hash64("a")) is a
    for _ in range(2):
        end(take(here, wanted=a), Outcome.SERVER_ERROR)
    assert {end(take(here, wanted=a)) for _ in range(20)} == {"b", "c"}
    alone = cluster(ClusterRules(), members[:1])
    assert end(take(alone, avoid=a)) == "a"


def test_the_probe_of_an_ejected_endpoint() -> None:
    members = seats("ab")
    here = cluster(ClusterRules(load_balancing=TURNS, outlier_detection=JUDGE), members)
    assert here.detector is not None
    a = members[0].endpoint

    def state(now: float) -> HealthState:
        assert here.detector is not None
        return here.detector.health(a, now).state

    for _ in range(2):
        end(take(here, wanted=a), Outcome.LOCAL_FAILURE)
    assert state(5.0) is HealthState.EJECTED
    assert state(10.0) is HealthState.TO_PROBE
    probe = take(here, 10.0, wanted=a)
    assert state(10.0) is HealthState.PROBING
    assert {end(take(here, 10.0), now=10.0) for _ in range(5)} == {"b"}
    probe.release(10.5)  # the client went: it says nothing
    assert state(10.5) is HealthState.TO_PROBE
    end(take(here, 11.0, wanted=a), now=11.0)
    assert state(11.0) is HealthState.HEALTHY
    assert here.detector.ejected(11.0) == []


def test_who_stays_keeps_what_is_known() -> None:
    members = seats("abc")
    here = cluster(ClusterRules(outlier_detection=JUDGE), members)
    for _ in range(2):
        end(take(here, wanted=members[0].endpoint), Outcome.GATEWAY_ERROR)
    here.replace([members[0], *seats("xy")], 1.0)
    assert {end(take(here, 2.0), now=2.0) for _ in range(20)} == {"x", "y"}
    here.replace(seats("a"), 3.0)  # another endpoint, though of the same name
    assert end(take(here, 4.0), now=4.0) == "a"


def test_the_near_tier_passes_on_what_it_cannot_take() -> None:
    members = seats("abcd", far="d")
    rules = ClusterRules(
        load_balancing=TURNS,
        outlier_detection=OutlierDetection(
            consecutive_failures=1, base_ejection_s=99, max_ejected_percent=75
        ),
    )
    here = cluster(rules, members)

    def far_share() -> float:
        counts = Counter(end(take(here)) for _ in range(1000))
        return counts["d"] / 1000

    assert far_share() == 0
    end(take(here, wanted=members[0].endpoint), Outcome.SERVER_ERROR)
    assert 0.02 < far_share() < 0.12  # 1 - 1.4 * 2/3
    end(take(here, wanted=members[1].endpoint), Outcome.SERVER_ERROR)
    assert 0.45 < far_share() < 0.62  # 1 - 1.4 / 3
    end(take(here, wanted=members[2].endpoint), Outcome.SERVER_ERROR)
    assert far_share() == 1


def test_two_weak_tiers_still_serve() -> None:
    members = seats("abcdef", far="def")
    rules = ClusterRules(
        load_balancing=TURNS,
        outlier_detection=OutlierDetection(
            consecutive_failures=1, base_ejection_s=99, max_ejected_percent=90
        ),
    )
    here = cluster(rules, members)
    for number in (0, 1, 3, 4):
        end(take(here, wanted=members[number].endpoint), Outcome.SERVER_ERROR)
    counts = Counter(end(take(here)) for _ in range(500))
    assert set(counts) == {"c", "f"}


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_without_a_weight_nothing_comes(algorithm: Algorithm) -> None:
    keys = (HashKey(source=HashSource.SOURCE_IP),)
    rules = ClusterRules(load_balancing=LoadBalancing(algorithm=algorithm, hash_keys=keys))
    members = [replace(seat, weight=int(seat.name != "b")) for seat in seats("abc")]
    here = cluster(rules, members)
    keyed = [here.take(0.0, key=hash64(str(number))) for number in range(60)]
    assert {lease.endpoint.name for lease in keyed if isinstance(lease, Lease)} == {"a", "c"}
    here.replace([replace(seat, weight=0) for seat in members], 1.0)
    keyed = [here.take(1.0, key=hash64(str(number))) for number in range(60)]
    assert {lease.endpoint.name for lease in keyed if isinstance(lease, Lease)} == set("abc")


def test_limits_per_endpoint() -> None:
    members = seats("ab")
    here = cluster(ClusterRules(limits=CircuitLimits(max_endpoint_requests=2)), members)
    held = [take(here, wanted=members[0].endpoint) for _ in range(2)]
    assert {lease.endpoint.name for lease in held} == {"a"}
    assert {take(here).endpoint.name for _ in range(2)} == {"b"}
    assert here.take(0.0) is Refusal.OVERFLOW


def test_a_first_connection_is_always_allowed_and_more_are_limited() -> None:
    limits = CircuitLimits(max_connections=1, max_endpoint_connections=3)
    breaker = cluster(ClusterRules(limits=limits), seats("a")).breaker
    assert [breaker.connect(0), breaker.connect(0), breaker.connect(1)] == [True, True, False]
    wide = cluster(ClusterRules(limits=CircuitLimits(max_endpoint_connections=2)), []).breaker
    assert [wide.connect(1), wide.connect(2)] == [True, False]
    assert wide.rejected[Resource.CONNECTIONS] == 1


def test_limits_are_divided_and_rounded_up() -> None:
    shared = share_limits(CircuitLimits(max_requests=10, max_retries=0, max_pending=1), 4)
    assert (shared.max_requests, shared.max_retries, shared.max_pending) == (3, 0, 1)
    assert shared.max_connections is None


def test_equal_rules_are_equal() -> None:
    keys = (HashKey(source=HashSource.SOURCE_IP),)
    rules = ClusterRules(
        load_balancing=LoadBalancing(algorithm=Algorithm.MAGLEV, hash_keys=keys),
        retry_budget=RetryBudget(),
    )
    assert hash(rules) == hash(
        ClusterRules(
            load_balancing=LoadBalancing(algorithm=Algorithm.MAGLEV, hash_keys=keys),
            retry_budget=RetryBudget(),
        )
    )


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "ok", "bad", "drop", "grow", "shrink"]), st.integers(0, 30)
        ),
        max_size=60,
    )
)
def test_nothing_is_ever_lost_or_counted_twice(events: list[tuple[str, int]]) -> None:
    """Whatever comes, requests under way are the leases that are held, and one always serves."""
    members = seats("abcd")
    rules = ClusterRules(
        load_balancing=LoadBalancing(algorithm=Algorithm.PEAK_EWMA),
        outlier_detection=JUDGE,
        limits=CircuitLimits(max_requests=5),
    )
    here, now = cluster(rules, members), 0.0
    held: list[Lease[Pod]] = []
    for what, number in events:
        now += number / 10
        if what == "take":
            lease = here.take(now)
            if isinstance(lease, Lease):
                held.append(lease)
            else:
                assert (lease, len(held)) == (Refusal.OVERFLOW, 5)
        elif what in ("grow", "shrink"):
            here.replace(members if what == "grow" else members[: 1 + number % 4], now)
        elif held:
            lease = held.pop(number % len(held))
            if what != "drop":
                lease.judge(Outcome.OK if what == "ok" else Outcome.SERVER_ERROR, now)
            lease.release(now)
        assert here.breaker.active(Resource.REQUESTS) == len(held)
        assert sum(seat.endpoint.active for seat in members) == len(held)
