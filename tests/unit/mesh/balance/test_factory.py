"""The choosers of the factory: distributions against a naive reference, and what they remember."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import pytest

from mesh.balance.chooser import Chooser, Member, make_chooser
from mesh.model.traffic import Algorithm, HashKey, HashSource, LoadBalancing, SlowStart


@dataclass(slots=True, eq=False)
class Pod:
    """An endpoint."""

    name: str
    active: int = 0


HASHED = (HashKey(source=HashSource.SOURCE_IP),)


def pods(count: int) -> list[Pod]:
    return [Pod(f"10.0.0.{number}:80") for number in range(count)]


def member(pod: Pod, weight: int = 1, since: float | None = None) -> Member[Pod]:
    return Member(endpoint=pod, name=pod.name, weight=weight, since=since)


def chooser_of(rules: LoadBalancing, members: Sequence[Member[Pod]]) -> Chooser[Pod]:
    made: Chooser[Pod] = make_chooser(rules, Random(1))
    made.replace(members)
    return made


def balance(algorithm: Algorithm, **fields: object) -> LoadBalancing:
    keys = HASHED if algorithm in (Algorithm.RING_HASH, Algorithm.MAGLEV) else ()
    rules = LoadBalancing(algorithm=algorithm, hash_keys=keys, table_size=1009)
    for name, value in fields.items():
        object.__setattr__(rules, name, value)
    return rules


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_equal_endpoints_get_equal_shares(algorithm: Algorithm) -> None:
    """A naive reference gives everybody a quarter; so does every algorithm, within 4 sigma."""
    four = pods(4)
    chooser = chooser_of(balance(algorithm), [member(pod) for pod in four])
    random = Random(2)
    counts = Counter(chooser.choose(four, random.getrandbits(64), 0.0).name for _ in range(8000))
    # Points on a ring are random themselves: 256 per endpoint leave some unevenness.
    allowed = 500 if algorithm is Algorithm.RING_HASH else 160
    assert all(abs(count - 2000) < allowed for count in counts.values())
    assert len(counts) == 4


WEIGHTED = [
    Algorithm.LEAST_REQUEST,
    Algorithm.ROUND_ROBIN,
    Algorithm.RANDOM,
    Algorithm.RING_HASH,
    Algorithm.MAGLEV,
]


@pytest.mark.parametrize("algorithm", WEIGHTED)
def test_weights_are_shares(algorithm: Algorithm) -> None:
    three = pods(3)
    weights = [1, 3, 0]
    members = [member(pod, weight) for pod, weight in zip(three, weights, strict=True)]
    chooser = chooser_of(balance(algorithm), members)
    random = Random(3)
    counts = Counter(chooser.choose(three, random.getrandbits(64), 0.0).name for _ in range(8000))
    assert counts[three[2].name] == 0
    assert counts[three[1].name] == pytest.approx(6000, abs=400)


def test_least_request_keeps_the_worst_load_near_the_mean() -> None:
    """Requests that never end, thrown at ten endpoints: at random the fullest gets far more."""

    def fullest(algorithm: Algorithm) -> int:
        ten = pods(10)
        chooser = chooser_of(balance(algorithm), [member(pod) for pod in ten])
        for _ in range(1000):
            chooser.choose(ten, None, 0.0).active += 1
        return max(pod.active for pod in ten)

    assert fullest(Algorithm.LEAST_REQUEST) <= 104
    assert fullest(Algorithm.RANDOM) > 110


def test_more_choices_than_endpoints() -> None:
    two = pods(2)
    two[0].active = 9
    chooser = chooser_of(balance(Algorithm.LEAST_REQUEST, choices=5), [member(p) for p in two])
    assert {chooser.choose(two, None, 0.0) for _ in range(20)} == {two[1]}
    assert chooser.choose(two[:1], None, 0.0) is two[0]


def test_weighted_least_request_looks_at_load() -> None:
    two = pods(2)
    two[1].active = 3
    members = [member(two[0], 1), member(two[1], 2)]
    chooser = chooser_of(balance(Algorithm.LEAST_REQUEST), members)
    counts = Counter(chooser.choose(two, None, 0.0).name for _ in range(300))
    assert counts[two[0].name] == 200  # 1 / 1 beside 2 / 4


@pytest.mark.parametrize("algorithm", [Algorithm.ROUND_ROBIN, Algorithm.LEAST_REQUEST])
def test_a_new_endpoint_grows_into_its_share(algorithm: Algorithm) -> None:
    two = pods(2)
    rules = balance(algorithm, slow_start=SlowStart(window_s=100))
    chooser = chooser_of(rules, [member(two[0]), member(two[1], since=0.0)])
    shares = [
        sum(chooser.choose(two, None, now) is two[1] for _ in range(1100))
        for now in (0.0, 50.0, 100.0)
    ]
    assert shares[0] == pytest.approx(100, abs=5)  # 0.1 of 1.1
    assert shares[1] == pytest.approx(367, abs=5)
    assert shares[2] == pytest.approx(550, abs=70)


@pytest.mark.parametrize("algorithm", [Algorithm.RING_HASH, Algorithm.MAGLEV])
def test_keys_of_an_endpoint_that_is_out_go_to_one_other_and_come_back(
    algorithm: Algorithm,
) -> None:
    five = pods(5)
    chooser = chooser_of(balance(algorithm), [member(pod) for pod in five])
    keys = [Random(number).getrandbits(64) for number in range(300)]
    home = {key: chooser.choose(five, key, 0.0) for key in keys}
    without = [pod for pod in five if pod is not five[0]]
    for key in keys:
        now = chooser.choose(without, key, 0.0)
        assert now is chooser.choose(without, key, 0.0)
        assert now is home[key] or home[key] is five[0]
    chooser.replace([member(pod) for pod in five])
    assert all(chooser.choose(five, key, 0.0) is pod for key, pod in home.items())


def test_no_key_means_anywhere() -> None:
    three = pods(3)
    chooser = chooser_of(balance(Algorithm.MAGLEV), [member(pod) for pod in three])
    assert {chooser.choose(three, None, 0.0) for _ in range(50)} == set(three)
    nobody: Chooser[Pod] = chooser_of(balance(Algorithm.MAGLEV), [])
    assert nobody.choose(three, 4, 0.0) is three[1]


def test_latency_is_learnt_and_kept_over_changes() -> None:
    three = pods(3)
    chooser = chooser_of(balance(Algorithm.PEAK_EWMA), [member(pod) for pod in three])

    def answer(pod: Pod, rtt_s: float, *, failed: bool = False) -> None:
        chooser.started(pod, 0.0)
        chooser.ended(pod, rtt_s, 0.0, failed=failed)

    answer(three[0], 0.001)
    answer(three[1], 2.0)
    answer(three[2], 0.001, failed=True)
    chooser.replace([member(pod) for pod in three])
    counts = Counter(chooser.choose(three, None, 0.0).name for _ in range(300))
    # Of two at random: the fast one whenever it is drawn.
    assert counts[three[0].name] == pytest.approx(200, abs=30)
    assert counts[three[2].name] == 0
    chooser.started(three[0], 0.0)
    chooser.ended(three[0], None, 0.0)
    chooser.ended(three[0], None, 0.0)  # of one that began before the endpoint came again
