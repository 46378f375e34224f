"""Pacing under a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.resilience.bandwidth import Pacer


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 65536), min_size=20, max_size=60))
def test_obeying_the_pauses_gives_the_rate(sizes: list[int]) -> None:
    pacer, now = Pacer(100_000, 0.0), 0.0
    for size in sizes:
        now += pacer.pass_on(size, now)
    # Only pauses below the grain may be missing at the end.
    assert now == pytest.approx(sum(sizes) / 100_000, abs=0.005)


def test_idle_time_gives_no_credit() -> None:
    pacer = Pacer(1000, 0.0)
    assert pacer.pass_on(1000, 0.0) == 1.0
    assert pacer.pass_on(1000, 50.0) == 1.0


def test_streams_that_share_a_pacer_share_its_rate() -> None:
    pacer = Pacer(1000, 0.0)
    assert [pacer.pass_on(500, 0.0) for _ in range(3)] == [0.5, 1.0, 1.5]


def test_tiny_pauses_add_up() -> None:
    pacer = Pacer(1000, 0.0)
    assert [pacer.pass_on(2, 0.0) for _ in range(3)] == [0.0, 0.0, 0.006]
