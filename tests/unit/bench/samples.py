"""A small report, for tests of what is made of one."""

from __future__ import annotations

from bench.model import Failure, Measured, Peer, Report
from bench.stats import summarise


def measured(scenario: str, peer: Peer, metric: str, *samples: float) -> Measured:
    return Measured(scenario=scenario, peer=peer, metric=metric, summary=summarise(samples))


def report(*values: Measured, mode: str = "full", failures: tuple[Failure, ...] = ()) -> Report:
    return Report(
        mode=mode,
        date="2026-01-02T03:04:05+00:00",
        machine={"cpu": "a processor", "cores": "2"},
        versions={"meshnode": "abc", "envoy": "1.2.3"},
        measured=values,
        failures=failures,
    )
