"""Fair shares: bounds that always hold, and a greedy caller that cannot starve a modest one."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.fairness import Admission, FairShare

steps = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=200)


@given(st.integers(1, 20), st.floats(0, 1), steps)
def test_counts_and_bounds_hold_whatever_happens(
    capacity: int, free: float, steps: list[tuple[bool, int]]
) -> None:
    shares: FairShare[int] = FairShare(capacity, free)
    held: Counter[int] = Counter()
    for arrives, caller in steps:
        if arrives:
            before, share = held.total(), shares.share()
            found = shares.admit(caller)
            if found is Admission.ADMITTED:
                held[caller] += 1
            elif found is Admission.FULL:
                assert before == capacity
            else:
                assert before >= int(capacity * free)
                assert held[caller] >= share
        elif held[caller]:
            shares.release(caller)
            held[caller] -= 1
        assert shares.in_flight == held.total() <= capacity
        assert shares.callers == len(+held), "callers without requests are forgotten"
        assert shares.held(caller) == held[caller]


@given(st.integers(2, 200), st.floats(0, 1))
def test_a_greedy_caller_leaves_room_for_another(capacity: int, free: float) -> None:
    shares: FairShare[str] = FairShare(capacity, min(free, 0.5))
    while shares.admit("greedy") is Admission.ADMITTED:
        pass
    assert shares.held("greedy") <= max(1, capacity // 2)
    assert shares.admit("modest") is Admission.ADMITTED


def test_an_alone_caller_within_the_free_part_is_not_held_back() -> None:
    shares: FairShare[str] = FairShare(100, 0.8)
    assert all(shares.admit("a") is Admission.ADMITTED for _ in range(80))
    assert shares.admit("a") is Admission.OVER_SHARE


def test_under_lasting_pressure_all_get_alike() -> None:
    chance, callers = random.Random(7), ["flood"] * 50 + ["b", "c", "d"]
    shares: FairShare[str] = FairShare(40)
    running: list[str] = []
    sums: Counter[str] = Counter()
    for _ in range(20_000):
        asking = (chance.choice(callers), "b", "c", "d")
        running += [item for item in asking if shares.admit(item) is Admission.ADMITTED]
        for _ in range(min(len(running), 2)):
            shares.release(running.pop(chance.randrange(len(running))))
        sums.update(running)
    mean = sums.total() / 4
    assert all(abs(sums[caller] - mean) < 0.35 * mean for caller in ("flood", "b", "c", "d"))


def test_settings_without_sense() -> None:
    for capacity, free in ((0, 0.5), (1, -0.1), (1, 1.1)):
        with pytest.raises(ValueError, match="capacity"):
            FairShare(capacity, free)
