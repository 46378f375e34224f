"""Waits after failures."""

from __future__ import annotations

from mesh.sources.kubernetes.backoff import Backoff


def test_waits_double_up_to_a_limit_and_begin_anew() -> None:
    backoff = Backoff(lambda: 1.0, first_s=1.0, longest_s=5.0)
    assert [backoff.next_s() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next_s() == 1.0


def test_chance_takes_up_to_half_of_a_wait_and_nothing_of_what_the_server_asked_for() -> None:
    assert Backoff(lambda: 0.0, first_s=4.0).next_s() == 2.0
    assert Backoff(lambda: 0.0, first_s=4.0).next_s(at_least_s=10.0) == 12.0


def test_many_failures_do_not_overflow() -> None:
    backoff = Backoff(lambda: 1.0, first_s=1.0, longest_s=5.0)
    backoff.failures = 100_000
    assert backoff.next_s() == 5.0
