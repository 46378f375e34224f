"""From edges to golden numbers: rows per namespace, workload, service or route. Pure.

A connection is reported by both its ends where both are in the mesh, so for each pair one reporter
is believed: the source, which also sees what never arrived, else the destination. Requests come
from waypoints alone. Where a row has requests, success and latency speak of them; a row without
speaks of connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mesh.telemetry.requests import BUCKETS_MS
from mesh.telemetry.window import add_cell
from mesh.telemetry.window_answer import EdgeTraffic, Traffic


class By(StrEnum):
    """What a row of `meshnode stat` is about."""

    NAMESPACE = "namespace"
    WORKLOAD = "workload"
    SERVICE = "service"
    ROUTE = "route"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """The golden numbers of one row.

    Attributes:
        success: share of requests (or, without any, connections) that did not fail; None if
            nothing ended. A denial is a failure.
        rps: requests per second; None where no waypoint counts them.
        p50_ms, p95_ms, p99_ms: duration of requests, None without any.
        connections_s: connections opened per second.
        denied: requests and connections turned away by policy.
        sent_s, received_s: TCP bytes per second from source to destination, and back.
    """

    name: str
    success: float | None
    rps: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    connections_s: float
    denied: int
    sent_s: float
    received_s: float


@dataclass(slots=True)
class Sums:
    """Counts of one row. Rates are added up per answer, for each covers its own time."""

    opened_s: float = 0.0
    closed: int = 0
    failed: int = 0
    requests_s: float = 0.0
    requests: int = 0
    bad_requests: int = 0
    denied: int = 0
    sent_s: float = 0.0
    received_s: float = 0.0
    buckets: list[int] = field(default_factory=list)

    def add(self, edge: EdgeTraffic, covered_s: float) -> None:
        """Add one edge."""
        self.denied += edge.denied
        if edge.is_requests:
            self.requests_s += edge.closed / covered_s
            self.requests += edge.closed
            self.bad_requests += edge.failed
            add_cell(self.buckets, edge.buckets)
            return
        self.opened_s += edge.opened / covered_s
        self.closed += edge.closed
        self.failed += edge.failed
        self.sent_s += edge.sent / covered_s
        self.received_s += edge.received / covered_s

    def golden(self, name: str) -> Golden:
        """The numbers of the row."""
        ended, failed = (
            (self.requests, self.bad_requests) if self.requests else (self.closed, self.failed)
        )
        return Golden(
            name=name,
            success=round(1 - failed / ended, 4) if ended else None,
            rps=round(self.requests_s, 3) if self.requests else None,
            p50_ms=quantile(self.buckets, 0.5),
            p95_ms=quantile(self.buckets, 0.95),
            p99_ms=quantile(self.buckets, 0.99),
            connections_s=round(self.opened_s, 3),
            denied=self.denied,
            sent_s=round(self.sent_s, 1),
            received_s=round(self.received_s, 1),
        )


Counted = tuple[EdgeTraffic, float]
"""An edge and the seconds that its counts cover."""


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """Milliseconds below which `share` of the durations lie, as Prometheus interpolates."""
    total = sum(buckets)
    if not total:
        return None
    rank, below = share * total, 0
    for index, count in enumerate(buckets):
        if count and below + count >= rank:
            if index >= len(BUCKETS_MS):
                return float(BUCKETS_MS[-1])
            low = BUCKETS_MS[index - 1] if index else 0.0
            return round(low + (BUCKETS_MS[index] - low) * (rank - below) / count, 3)
        below += count
    return float(BUCKETS_MS[-1])


def believed(answers: Iterable[Traffic]) -> Iterator[Counted]:
    """The edges of all answers, each connection once: see the module's text."""
    kept: list[Counted] = []
    sources: set[tuple[str, ...]] = set()
    late: list[Counted] = []
    for found in answers:
        for edge in found.edges:
            if edge.reporter == "destination":
                late.append((edge, found.covered_s))
                continue
            if edge.reporter == "source":
                sources.add(_pair(edge))
            kept.append((edge, found.covered_s))
    yield from kept
    yield from (one for one in late if _pair(one[0]) not in sources)


def _pair(edge: EdgeTraffic) -> tuple[str, ...]:
    """The pair whose ends both report; what is unknown to one side is unknown to it alone, so
    identity stands for a source without a name."""
    return (edge.src_namespace, edge.src or edge.src_identity, edge.dst_namespace, edge.dst)


def stat(
    answers: Sequence[Traffic], by: By, *, names: Iterable[str] = (), namespace: str = ""
) -> list[Golden]:
    """One row per destination, the busiest first; `names`: rows that are wanted even if idle."""
    rows: dict[str, Sums] = {name: Sums() for name in names}
    for edge, covered_s in believed(answers):
        key = row_name(edge, by)
        if key and (not namespace or key.partition("/")[0] == namespace):
            rows.setdefault(key, Sums()).add(edge, covered_s)
    found = [sums.golden(name) for name, sums in rows.items()]
    return sorted(found, key=lambda row: (-(row.rps or 0.0), -row.connections_s, row.name))


def row_name(edge: EdgeTraffic, by: By) -> str:
    """The row an edge counts for; empty = for none."""
    match by:
        case By.NAMESPACE:
            return edge.dst_namespace or edge.service.partition("/")[0]
        case By.WORKLOAD:
            return f"{edge.dst_namespace}/{edge.dst}" if edge.dst else ""
        case By.SERVICE:
            return edge.service
        case By.ROUTE:
            return edge.route


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeRow:
    """One line of `meshnode edges`, and an arrow of the service graph.

    Attributes:
        path: `direct`, `hbone`, `passthrough` or `waypoint`.
        secured: both identities are verified, by a tunnel or by the kernel.
    """

    src: str
    src_identity: str
    dst: str
    dst_identity: str
    path: str
    secured: bool
    services: tuple[str, ...]
    traffic: Golden


def edges(answers: Sequence[Traffic], namespace: str = "") -> list[EdgeRow]:
    """Who talks to whom, by names."""
    sums: dict[tuple[str, str, str, bool], Sums] = {}
    faces: dict[tuple[str, str, str, bool], list[EdgeTraffic]] = {}
    for edge, covered_s in believed(answers):
        if namespace and namespace not in (edge.src_namespace, edge.dst_namespace):
            continue
        key = (source_name(edge), destination_name(edge), edge.path, edge.secured)
        sums.setdefault(key, Sums()).add(edge, covered_s)
        faces.setdefault(key, []).append(edge)
    return [
        _edge_row(key, faces[key], sums[key].golden(f"{key[0]} > {key[1]}")) for key in sorted(sums)
    ]


def _edge_row(
    key: tuple[str, str, str, bool], seen: Sequence[EdgeTraffic], traffic: Golden
) -> EdgeRow:
    return EdgeRow(
        src=key[0],
        src_identity=_known(edge.src_identity for edge in seen),
        dst=key[1],
        dst_identity=_known(edge.dst_identity for edge in seen),
        path=key[2],
        secured=key[3],
        services=tuple(sorted({edge.service for edge in seen if edge.service})),
        traffic=traffic,
    )


def source_name(edge: EdgeTraffic) -> str:
    """`<namespace>/<workload>`, else the identity, else `unknown`."""
    if edge.src:
        return f"{edge.src_namespace}/{edge.src}"
    return edge.src_identity or "unknown"


def destination_name(edge: EdgeTraffic) -> str:
    """`<namespace>/<workload>`; the service where no workload was chosen (denied, or refused)."""
    if edge.dst:
        return f"{edge.dst_namespace}/{edge.dst}"
    return edge.service or edge.dst_identity or "unknown"


def _known(values: Iterable[str]) -> str:
    return next((value for value in values if value), "")


def origins(answers: Iterable[Traffic]) -> Mapping[str, float]:
    """Who answered, and how many seconds each answer covers."""
    return {found.origin: found.covered_s for found in answers}
