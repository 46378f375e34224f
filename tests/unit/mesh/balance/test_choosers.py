"""Choosers against naive references and the properties they are chosen for."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.balance.hashing import hash64, read_cookie, request_hash
from mesh.balance.maglev import MaglevTable
from mesh.balance.peak_ewma import EndpointLoad, PeakEwma
from mesh.balance.ring_hash import HashRing
from mesh.balance.weighted import WeightedRoundRobin, slow_start_weight
from mesh.model.traffic import HashKey, HashSource, SlowStart


def names(count: int, weight: int = 1) -> dict[str, tuple[str, int]]:
    """Endpoints of equal weight."""
    return {f"e{number}": (f"e{number}", weight) for number in range(count)}


KEYS = [hash64(f"key{number}") for number in range(4000)]


def ring(endpoints: dict[str, tuple[str, int]], size: int = 1024) -> HashRing[str]:
    """A ring of the default size."""
    return HashRing(endpoints, min_size=size, max_size=1 << 20)


def test_the_ring_is_the_naive_one() -> None:
    endpoints = names(5)
    points = sorted(
        (hash64(f"{name}_{number}"), name) for name in endpoints for number in range(256)
    )
    hashes = [point for point, _ in points]
    built = ring(endpoints)
    assert len(built) == len(points)
    for key in KEYS:
        assert built.choose(key) == points[bisect_left(hashes, key) % len(points)][1]


def test_only_the_keys_of_a_lost_endpoint_move_on_a_ring() -> None:
    before, after = ring(names(10)), ring(names(9))
    moved = Counter(before.choose(key) for key in KEYS if before.choose(key) != after.choose(key))
    assert moved["e9"] > 300
    assert set(moved) == {"e9"}


def test_weights_on_a_ring() -> None:
    weighted = {"a": ("a", 1), "b": ("b", 3), "c": ("c", 0)}
    built = ring(weighted, 4096)
    counts = Counter(built.choose(key) for key in KEYS)
    assert counts["c"] == 0
    assert counts["b"] == pytest.approx(3000, abs=250)
    assert ring({}).choose(1) is None
    assert len(HashRing(names(50), min_size=1, max_size=10)) == 50
    assert len(HashRing(names(3), min_size=1000, max_size=1000)) == 768
    heavy = HashRing({"a": ("a", 1), "b": ("b", 999)}, min_size=1, max_size=100)
    assert len(heavy) == 101


def test_maglev_is_even_and_moves_little() -> None:
    size = 2039
    before = MaglevTable(names(10), size=size)
    counts = Counter(before.entries())
    assert max(counts.values()) - min(counts.values()) <= 1
    after = MaglevTable(names(9), size=size)
    pairs = zip(before.entries(), after.entries(), strict=True)
    moved = sum(old != new and old != "e9" for old, new in pairs)
    assert moved < size * 0.1
    shuffled = dict(reversed(names(10).items()))
    assert MaglevTable(shuffled, size=size).entries() == before.entries()


def test_maglev_weights() -> None:
    weighted = {"a": ("a", 1), "b": ("b", 3), "c": ("c", 0)}
    counts = Counter(MaglevTable(weighted, size=1009).entries())
    assert counts == {"a": pytest.approx(252, abs=2), "b": pytest.approx(757, abs=2)}
    empty: MaglevTable[str] = MaglevTable({}, size=7)
    assert empty.choose(3) is None


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from("abcde"), st.integers(0, 5), min_size=1))
def test_a_full_turn_gives_everybody_its_weight(weights: dict[str, int]) -> None:
    turn: WeightedRoundRobin[str] = WeightedRoundRobin()
    total = sum(weights.values())
    chosen = Counter(turn.choose(weights) for _ in range(total * 2))
    assert chosen == {name: weight * 2 for name, weight in weights.items() if weight}
    if not total:
        assert turn.choose(weights) is None


def test_turns_are_spread() -> None:
    turn: WeightedRoundRobin[str] = WeightedRoundRobin()
    weights = {"a": 5, "b": 1, "c": 1}
    assert "".join(str(turn.choose(weights)) for _ in range(7)) == "aabacaa"


def test_slow_start() -> None:
    rules = SlowStart(window_s=10, min_weight_percent=10)
    weights = [slow_start_weight(100, age, rules) for age in (-1, 0, 0.5, 5, 10, 99)]
    assert weights == [10, 10, 10, 50, 100, 100]
    assert slow_start_weight(100, 0, None) == 100
    steep = SlowStart(window_s=10, aggression=2.0, min_weight_percent=10)
    assert slow_start_weight(100, 2.5, steep) == pytest.approx(50)


def test_an_estimate_jumps_up_and_decays() -> None:
    load = EndpointLoad(0.03, 10.0, 0.0)
    load.start()
    assert load.load(0.0) == pytest.approx(0.06)
    load.finish(1.0, 0.0)
    assert load.rtt_s(0.0) == 1.0
    assert load.rtt_s(10.0) == pytest.approx(0.3679, abs=1e-3)
    load.start()
    load.finish(0.01, 10.0)
    assert 0.01 < load.rtt_s(10.0) < 1.0


def test_failing_fast_is_slow() -> None:
    load = EndpointLoad(0.03, 10.0, 0.0)
    load.start()
    load.finish(0.001, 0.0, failed=True)
    assert load.rtt_s(0.0) == 5.0
    load.start()
    load.finish(0.001, 0.0, failed=True, retry_after_s=1e6)
    assert load.rtt_s(0.0) == 300.0


def test_a_slow_endpoint_gets_little() -> None:
    random, chooser, now = Random(5), PeakEwma[str](0.03, 10.0), 0.0
    latency = {"fast": 0.01, "also": 0.01, "slow": 0.5}
    counts: Counter[str] = Counter()
    for _ in range(3000):
        now += 0.01
        chosen = chooser.choose(tuple(latency), now, random)
        load = chooser.of(chosen, now)
        load.start()
        load.finish(latency[chosen], now)
        counts[chosen] += 1
    assert counts["slow"] < 100
    assert min(counts["fast"], counts["also"]) > 1000
    assert chooser.choose(("one",), now, random) == "one"
    chooser.keep(("fast",))
    assert chooser.of("slow", now).rtt_s(now) == 0.03


def test_what_a_request_is_hashed_on() -> None:
    user = HashKey(source=HashSource.HEADER, name="x-user", terminal=True)
    cookie = HashKey(source=HashSource.COOKIE, name="s")
    source = HashKey(source=HashSource.SOURCE_IP)
    keys = (user, cookie, source)
    assert request_hash(keys, {"x-user": "a"}, {}, "1") == request_hash(
        keys, {"x-user": "a"}, {}, "2"
    )
    assert request_hash(keys, {"cookie": "s=1"}, {}, "1") != request_hash(
        keys, {"cookie": "s=1"}, {}, "2"
    )
    query = HashKey(source=HashSource.QUERY, name="q")
    assert request_hash((query,), {}, {}, "1") is None
    assert request_hash((query,), {}, {"q": ""}, "1") is not None


@pytest.mark.parametrize(
    ("header", "value"),
    [("s=1", "1"), ('a=b; s="2"', "2"), ("ss=1", None), ("s", None), ("s=1; s=2", "1"), ("", None)],
)
def test_cookies(header: str, value: str | None) -> None:
    assert read_cookie(header, "s") == value
