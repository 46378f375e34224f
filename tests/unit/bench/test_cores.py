"""The benchmarks of single structures, as small as they go."""

from __future__ import annotations

import pytest

from bench import policy, scrape, snapshot
from bench.scenarios.cores import KINDS


def test_the_decision_is_made_by_the_last_policy() -> None:
    found = policy.measure(20)
    assert "shop/p00019" in found.verdict
    assert 0 < found.p50_us <= found.p99_us


def test_one_change_of_many_workloads_is_one_change() -> None:
    found = snapshot.measure(50)
    assert found.first_s > 0
    assert 0 < found.delta_bytes < 2000


def test_a_scrape_has_every_series() -> None:
    small, large = scrape.measure(10), scrape.measure(100)
    assert large.text_bytes > 5 * small.text_bytes


@pytest.mark.parametrize("kind", ["policy", "routes", "snapshot", "scrape"])
def test_a_kind_gives_numbers(kind: str) -> None:
    assert all(value > 0 for value in KINDS[kind](20).values())
