"""What a benchmark run says: values per scenario, peer and metric, bars, failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bench.stats import Summary, ratio


class Peer(StrEnum):
    """Who carries the bytes; for scenarios without a peer only `OURS` is used."""

    OURS = "meshnode"
    NO_MESH = "no mesh"
    ENVOY_TLS = "Envoy mTLS TCP pair"
    ENVOY_HBONE = "Envoy HBONE pair"
    HAPROXY_TLS = "HAProxy mTLS TCP pair"
    H2 = "h2"
    ENVOY = "Envoy"
    NGINX = "nginx"
    HAPROXY = "HAProxy"
    UNOBSERVED = "meshnode, unobserved"


class Better(StrEnum):
    """Which direction is the good one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means."""

    unit: str
    better: Better
    text: str


METRICS: Mapping[str, Metric] = {
    "gbit_per_s": Metric("Gb/s", Better.HIGHER, "payload delivered"),
    "p50_us": Metric("µs", Better.LOWER, "median"),
    "p99_us": Metric("µs", Better.LOWER, "99th percentile"),
    "connects_per_s": Metric("1/s", Better.HIGHER, "connect, one byte there and back, close"),
    "requests_per_s": Metric("1/s", Better.HIGHER, "requests (of streams: messages) answered"),
    "cpu_s_per_gb": Metric("s", Better.LOWER, "CPU of the mesh, both sides, per 10⁹ bytes"),
    "cpu_all_s_per_gb": Metric("s", Better.LOWER, "the same with client and server"),
    "cpu_s_per_1000": Metric("s", Better.LOWER, "CPU of the mesh, both sides, per 1,000"),
    "cpu_all_s_per_1000": Metric("s", Better.LOWER, "the same with client and server"),
    "kib_per_connection": Metric("KiB", Better.LOWER, "resident, per connection and side"),
    "base_mib": Metric("MiB", Better.LOWER, "resident before, both sides"),
    "resident_mb": Metric("MB", Better.LOWER, "all processes of the node"),
    "cpu_percent": Metric("%", Better.LOWER, "of one core"),
    "seconds": Metric("s", Better.LOWER, "until done"),
    "ms": Metric("ms", Better.LOWER, "until done"),
    "record_us": Metric("µs", Better.LOWER, "one connection counted"),
    "change_ms": Metric("ms", Better.LOWER, "after one of them changed"),
    "compile_s": Metric("s", Better.LOWER, "once per change of policies or routes"),
    "kib": Metric("KiB", Better.LOWER, "size"),
    "connect_us": Metric("µs", Better.LOWER, "CONNECT opened and closed, both sides"),
    "chunk_16k_us": Metric("µs", Better.LOWER, "16 KiB of DATA, both sides"),
    "stream_bytes": Metric("B", Better.LOWER, "resident, one idle stream"),
}
"""Stable names: `bench/results/latest.json` is compared from one change to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One number of one peer."""

    scenario: str
    peer: Peer
    metric: str
    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Ours beside one peer's, or alone."""

    scenario: str
    peer: Peer | None
    metric: str
    ours: Summary
    theirs: Summary | None

    @property
    def ratio(self) -> float | None:
        return ratio(self.ours.median, self.theirs.median) if self.theirs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A scenario, or one peer of it, that gave no number."""

    scenario: str
    peer: Peer | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole run.

    Attributes:
        mode: full, quick or partial.
        date: ISO 8601, UTC.
        machine, versions: names to text.
    """

    mode: str
    date: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    measured: tuple[Measured, ...]
    failures: tuple[Failure, ...]


def rows(measured: tuple[Measured, ...]) -> list[Row]:
    """Put ours beside each peer's; in the order in which ours were measured."""
    found: list[Row] = []
    for ours in measured:
        if ours.peer is not Peer.OURS:
            continue
        peers = [
            other
            for other in measured
            if (other.scenario, other.metric) == (ours.scenario, ours.metric)
            and other.peer is not Peer.OURS
        ]
        pairs: list[tuple[Peer | None, Summary | None]] = [(p.peer, p.summary) for p in peers]
        found += [
            Row(
                scenario=ours.scenario,
                metric=ours.metric,
                ours=ours.summary,
                peer=peer,
                theirs=theirs,
            )
            for peer, theirs in pairs or [(None, None)]
        ]
    return found
