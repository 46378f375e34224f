"""The token bucket per node."""

from __future__ import annotations

from mesh.identity.rate import NodeRates


def test_a_burst_then_the_rate_for_each_node_alone() -> None:
    rates = NodeRates(per_s=2, burst=3)
    assert [rates.take("a", 10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.take("b", 10.0) == 0
    assert rates.take("a", 10.5) == 0
    assert rates.take("a", 10.5) == 0.5
    assert [rates.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_clock_that_steps_back_gives_nothing_away() -> None:
    rates = NodeRates(per_s=1, burst=1)
    assert rates.take("a", 10.0) == 0
    assert rates.take("a", 5.0) == 1
