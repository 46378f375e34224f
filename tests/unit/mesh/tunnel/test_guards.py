"""Liveness and flood limits under given time."""

from __future__ import annotations

from mesh.tunnel.guards import Check, Liveness, TokenBucket


def test_silent_peer_is_pinged_rechecked_and_lost() -> None:
    liveness = Liveness(10, 20, now=100)
    assert liveness.check(109) is Check.WAIT
    assert liveness.check(110) is Check.PING
    assert liveness.next_check() == 130
    assert liveness.check(129) is Check.WAIT
    assert liveness.check(130) is Check.RECHECK
    assert liveness.check(130.01) is Check.LOST


def test_bytes_read_at_the_recheck_save_the_peer() -> None:
    liveness = Liveness(10, 20, now=0)
    assert liveness.check(10) is Check.PING
    assert liveness.check(95) is Check.RECHECK  # we were stopped ourselves
    liveness.heard(95)
    assert liveness.check(95.01) is Check.WAIT
    assert liveness.next_check() == 105


def test_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(burst=3, rate_per_s=2, now=0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert [bucket.take(100) for _ in range(4)] == [True, True, True, False]
