"""When waiting connections are reset because no worker is there."""

from __future__ import annotations

from agent.holder.orphans import OrphanRule


def test_grace_runs_from_the_start() -> None:
    rule = OrphanRule(15.0, now=100.0)
    assert not rule.is_orphaned(114.9)
    assert rule.deadline(101.0) == 115.0
    assert rule.is_orphaned(115.0)
    assert rule.deadline(115.0) is None


def test_worker_ends_it() -> None:
    rule = OrphanRule(15.0, now=0.0)
    rule.worker_joined()
    assert not rule.is_orphaned(1000.0)
    assert rule.deadline(1000.0) is None


def test_only_the_last_worker_counts() -> None:
    rule = OrphanRule(15.0, now=0.0)
    rule.worker_joined()
    rule.worker_joined()
    rule.worker_left(20.0)
    assert not rule.is_orphaned(100.0)
    rule.worker_left(100.0)
    assert not rule.is_orphaned(114.0)
    assert rule.is_orphaned(115.0)
