"""Least-loaded choice against its promises."""

from __future__ import annotations

from collections import Counter
from random import Random

from mesh.balance.least_loaded import choose_least_loaded
from mesh.model.address import parse_ip
from mesh.model.workload import Endpoint, WorkloadUid


def endpoint(number: int, *, ready: bool = True) -> Endpoint:
    """Make an endpoint."""
    return Endpoint(
        address=parse_ip(f"10.0.0.{number}"),
        workload=WorkloadUid(f"pod/shop/w{number}"),
        ports={80: 8080},
        ready=ready,
    )


def test_load_evens_out() -> None:
    random = Random(1)
    endpoints = [endpoint(number) for number in range(10)]
    active: Counter[str] = Counter()
    for _ in range(1000):
        chosen = choose_least_loaded(endpoints, lambda e: active[str(e.address)], random)
        active[str(chosen.address)] += 1
    assert max(active.values()) - min(active.values()) <= 5


def test_ties_are_random() -> None:
    random = Random(1)
    pair = [endpoint(1), endpoint(2)]
    chosen = Counter(
        str(choose_least_loaded(pair, lambda _: 0, random).address) for _ in range(400)
    )
    assert min(chosen.values()) > 150


def test_the_less_loaded_of_two_always_wins() -> None:
    random = Random(1)
    one, two = endpoint(1), endpoint(2)
    loads = {str(one.address): 3, str(two.address): 2}
    for _ in range(20):
        assert choose_least_loaded([one, two], lambda e: loads[str(e.address)], random) is two
