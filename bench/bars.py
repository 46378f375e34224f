"""The bars this project holds itself to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.model import METRICS, Peer, Row


class Verdict(StrEnum):
    """Whether a bar holds."""

    MET = "met"
    NOT_MET = "not met"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A limit for a ratio to a peer or, without a peer, for our own number.

    Attributes:
        at_most: the limit is an upper one; otherwise a lower one.
    """

    text: str
    scenario: str
    metric: str
    limit: float
    at_most: bool
    peer: Peer | None = None


def _at_most(text: str, scenario: str, metric: str, limit: float, peer: Peer | None = None) -> Bar:
    return Bar(text=text, scenario=scenario, metric=metric, limit=limit, at_most=True, peer=peer)


def _at_least(text: str, scenario: str, metric: str, limit: float, peer: Peer) -> Bar:
    return Bar(text=text, scenario=scenario, metric=metric, limit=limit, at_most=False, peer=peer)


NO_MESH, HBONE, ENVOY = Peer.NO_MESH, Peer.ENVOY_HBONE, Peer.ENVOY
UNOBSERVED = Peer.UNOBSERVED

BARS = (
    _at_most("same node: round trip p50", "same-node/rtt/128B", "p50_us", 1.05, NO_MESH),
    _at_least("same node: throughput", "same-node/throughput/1", "gbit_per_s", 0.97, NO_MESH),
    _at_least("same node: connects per s", "same-node/connects", "connects_per_s", 0.95, NO_MESH),
    _at_least("throughput, 1 stream", "cross-node/throughput/1", "gbit_per_s", 1.0, HBONE),
    _at_least("throughput, 8 streams", "cross-node/throughput/8", "gbit_per_s", 1.0, HBONE),
    _at_most("round trip of 128 B, p50", "cross-node/rtt/128B", "p50_us", 1.0, HBONE),
    _at_most("round trip of 128 B, p99", "cross-node/rtt/128B", "p99_us", 1.0, HBONE),
    _at_least("warm connects per s", "cross-node/connects", "connects_per_s", 1.5, HBONE),
    _at_most("connect + first byte, p50", "cross-node/first-byte/warm", "p50_us", 0.7, HBONE),
    _at_most("CPU per GB, 1 stream", "cross-node/throughput/1", "cpu_s_per_gb", 1.1, HBONE),
    _at_most(
        "memory of an idle tunnelled connection, KiB",
        "cross-node/idle/1000",
        "kib_per_connection",
        16.0,
    ),
    _at_most("node at rest, 100 pods: MB resident", "node/rest/100-pods", "resident_mb", 150.0),
    _at_most("node at rest, 100 pods: % of a core", "node/rest/100-pods", "cpu_percent", 1.0),
    _at_most(
        "authorization decision, 10,000 policies of 10 rules, µs",
        "core/policy/10000x10",
        "p50_us",
        20.0,
    ),
    _at_most("route match, 10,000 routes, µs", "core/routes/10000", "p50_us", 10.0),
    _at_least("waypoint, HTTP/1.1", "waypoint/http1/32-connections", "requests_per_s", 2.0, ENVOY),
    _at_most("waypoint, HTTP/1.1, p99", "waypoint/http1/32-connections", "p99_us", 1.0, ENVOY),
    _at_least("waypoint, HTTP/2", "waypoint/http2/32-connections", "requests_per_s", 1.0, ENVOY),
    _at_most("waypoint, HTTP/2, p99", "waypoint/http2/32-connections", "p99_us", 1.0, ENVOY),
    _at_least("waypoint, gRPC", "waypoint/grpc/unary", "requests_per_s", 1.0, ENVOY),
    _at_most("waypoint, gRPC, p99", "waypoint/grpc/unary", "p99_us", 1.0, ENVOY),
    _at_least("waypoint, gRPC streams", "waypoint/grpc/streaming", "requests_per_s", 1.0, ENVOY),
    _at_most("waypoint, HTTP/1.1, 3,000/s, p99", "waypoint/http1/3000-per-s", "p99_us", 1.0, ENVOY),
    _at_most("waypoint, HTTP/2, 3,000/s, p99", "waypoint/http2/3000-per-s", "p99_us", 1.0, ENVOY),
    _at_least(
        "waypoint, HTTP/1.1 by HBONE",
        "waypoint-hbone/http1/32-connections",
        "requests_per_s",
        1.0,
        ENVOY,
    ),
    _at_least(
        "waypoint, HTTP/2 by HBONE",
        "waypoint-hbone/http2/32-connections",
        "requests_per_s",
        1.0,
        ENVOY,
    ),
    _at_least(
        "waypoint, observed as by default",
        "observation/waypoint/default",
        "requests_per_s",
        0.95,
        UNOBSERVED,
    ),
    _at_most(
        "waypoint, observed as by default: CPU",
        "observation/waypoint/default",
        "cpu_s_per_1000",
        1.05,
        UNOBSERVED,
    ),
    _at_most(
        "same node, observed: round trip p50",
        "observation/same-node/rtt/128B",
        "p50_us",
        1.05,
        UNOBSERVED,
    ),
    _at_least(
        "same node, observed: connects per s",
        "observation/same-node/connects",
        "connects_per_s",
        0.95,
        UNOBSERVED,
    ),
    _at_least("waypoint, 1 MiB", "waypoint/http1/1048576-bytes", "requests_per_s", 1.0, ENVOY),
    _at_most(
        "waypoint, idle client", "waypoint/idle/1000-clients", "kib_per_connection", 1.0, ENVOY
    ),
    _at_most("start of the agent to ready, warm, s", "node/start/warm", "seconds", 3.0),
)


def judge(bar: Bar, rows: Sequence[Row]) -> tuple[Verdict, float | None]:
    """The verdict, and the value it was found by."""
    assert bar.metric in METRICS
    for row in rows:
        if (row.scenario, row.metric) != (bar.scenario, bar.metric):
            continue
        if bar.peer is not None and row.peer is not bar.peer:
            continue
        value = row.ratio if bar.peer is not None else row.ours.median
        if value is None:
            continue
        held = value <= bar.limit if bar.at_most else value >= bar.limit
        return (Verdict.MET if held else Verdict.NOT_MET), value
    return Verdict.NOT_MEASURED, None
