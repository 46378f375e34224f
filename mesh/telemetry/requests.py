"""Counts requests under Istio's names; tallied in workers, summed up and exposed by one process."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.model.connection import Party
from mesh.model.request import RequestFlag, RequestRecord
from mesh.telemetry import names
from mesh.telemetry.denials import MAX_EXAMPLE, Denial
from mesh.telemetry.families import family
from mesh.telemetry.metrics import MAX_POLICIES, OVERFLOWED
from mesh.telemetry.names import REQUEST_LABELS
from mesh.telemetry.window import Edge
from mesh.telemetry.window_feed import RecentTraffic, workload_name

BUCKETS_MS = (
    *(0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000),
    *(300_000, 600_000, 1_800_000, 3_600_000),
)
"""Istio's and Envoy's, so that quantiles of dashboards agree."""

UNKNOWN = "unknown"
IDLE_S = 600.0
MAX_SERIES = 10_000

Buckets = tuple[list[int], list[int], list[int]]
"""Counts per bucket of duration, of request bytes and of response bytes."""
Series = tuple[tuple[str, ...], int, float, int, int, Buckets, Edge, str, str]
"""Label values, count, sum of seconds, bytes of requests, bytes of responses, buckets; then what
the last minutes are made of: edge, the rule that refused (or empty), and the last such request."""


class _Sum:
    __slots__ = (
        "buckets", "count", "example", "received", "received_buckets", "seconds", "sent",
        "sent_buckets", "touched_at",
    )  # fmt: skip

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.received = self.sent = 0
        self.buckets = [0] * (len(BUCKETS_MS) + 1)
        self.received_buckets = [0] * (len(BUCKETS_MS) + 1)
        self.sent_buckets = [0] * (len(BUCKETS_MS) + 1)
        self.example = ""
        self.touched_at = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestGroup:
    """Requests that ended alike. `buckets` are of `BUCKETS_MS`, and one for what is longer."""

    src: Party
    dst: Party
    service: str
    protocol: str
    status: int
    flag: RequestFlag
    mutual_tls: bool
    count: int
    seconds: float
    received: int
    sent: int
    buckets: Sequence[int]
    received_buckets: Sequence[int]
    sent_buckets: Sequence[int]
    route: str
    grpc_status: int = -1


def _added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


class RequestTally:
    """What one worker saw since it was last asked."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._sums: dict[tuple[object, ...], _Sum] = {}

    def record(self, record: RequestRecord) -> None:
        """Count one request."""
        key = (
            record.src, record.dst, record.service, record.protocol, record.grpc_status,
            record.status, record.flag, record.mutual_tls, record.route, record.policy,
        )  # fmt: skip
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = _Sum()
        found.count += 1
        found.seconds += record.duration_s
        found.received += record.bytes_received
        found.sent += record.bytes_sent
        found.buckets[bisect_left(BUCKETS_MS, record.duration_s * 1000.0)] += 1
        received, sent = record.bytes_received, record.bytes_sent
        found.received_buckets[bisect_left(BUCKETS_MS, received) if received else 0] += 1
        found.sent_buckets[bisect_left(BUCKETS_MS, sent) if sent else 0] += 1
        if record.policy:
            found.example = f"{record.method} {record.path.partition('?')[0]}"[:MAX_EXAMPLE]

    def add(self, group: RequestGroup) -> None:
        """Count requests that ended alike and were added up elsewhere."""
        key = (
            group.src, group.dst, group.service, group.protocol, group.grpc_status, group.status,
            group.flag, group.mutual_tls, group.route, "",
        )  # fmt: skip
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = _Sum()
        found.count += group.count
        found.seconds += group.seconds
        found.received += group.received
        found.sent += group.sent
        found.buckets = _added(found.buckets, group.buckets)
        found.received_buckets = _added(found.received_buckets, group.received_buckets)
        found.sent_buckets = _added(found.sent_buckets, group.sent_buckets)

    def take(self) -> list[Series]:
        """Hand over what was counted and begin anew."""
        sums, self._sums = self._sums, {}
        return [
            (
                self._labels(key),
                s.count,
                s.seconds,
                s.received,
                s.sent,
                (s.buckets, s.received_buckets, s.sent_buckets),
                _edge_of(key),
                str(key[-1]),
                s.example,
            )
            for key, s in sums.items()
        ]

    def _labels(self, key: tuple[object, ...]) -> tuple[str, ...]:
        src, dst, service, _, grpc, status, flag, mutual_tls, _, _ = key
        assert isinstance(src, Party)
        assert isinstance(dst, Party)
        namespace, _, name = str(service).rpartition("/")
        known = bool(namespace and name)
        return (
            "waypoint",
            *_party(src, self._cluster),
            *_party(dst, self._cluster),
            f"{name}.{namespace}.svc.cluster.local" if known else UNKNOWN,
            name if known else UNKNOWN,
            namespace if known else UNKNOWN,
            "grpc" if grpc != -1 else "http",
            str(flag),
            str(status),
            str(grpc) if grpc != -1 else "",
            "mutual_tls" if mutual_tls else "none",
        )


def _edge_of(key: tuple[object, ...]) -> Edge:
    src, dst, service, route = key[0], key[1], str(key[2]), str(key[8])
    assert isinstance(src, Party)
    assert isinstance(dst, Party)
    return Edge(
        reporter="waypoint",
        path="waypoint",
        src_namespace=src.namespace,
        src=workload_name(src),
        src_identity=src.identity,
        dst_namespace=dst.namespace,
        dst=workload_name(dst),
        dst_identity=dst.identity,
        service=service,
        route="" if route == "default" else route,
        secured=bool(key[7]),
    )


def is_failure(status: int, grpc_status: int, policy: str) -> bool:
    """Whether a request counts against success: no answer, a fault of the server, or a denial.

    The codes of gRPC are those that a server is to blame for (as Linkerd has it).
    """
    if policy or status == 0 or status >= 500:
        return True
    return grpc_status in _GRPC_FAULTS


_GRPC_FAULTS = frozenset({2, 4, 8, 12, 13, 14, 15})


def _party(party: Party, cluster: str) -> tuple[str, ...]:
    canonical = party.canonical_service or UNKNOWN
    revision = party.canonical_revision or UNKNOWN
    return (
        party.app_name or party.name or UNKNOWN,
        party.namespace or UNKNOWN,
        f"spiffe://{party.identity}" if party.identity else UNKNOWN,
        canonical,
        revision,
        cluster if party.workload else UNKNOWN,
        canonical,
        revision,
    )


_STATUS = REQUEST_LABELS.index("response_code")
_GRPC = REQUEST_LABELS.index("grpc_response_status")


def request_denial(edge: Edge, policy: str, example: str, count: int) -> Denial:
    """A denial of requests, as the page and the command line show it."""
    src = f"{edge.src_namespace}/{edge.src}" if edge.src else edge.src_identity
    dst = f"{edge.dst_namespace}/{edge.dst}" if edge.dst else edge.service
    return Denial(
        reporter="waypoint",
        src=src,
        src_identity=edge.src_identity,
        dst=dst,
        service=edge.service,
        policy=policy,
        reason=f"denied by {policy}",
        example=example,
        count=count,
        last_at=0.0,
    )


class RequestMetrics(Collector):
    """Sums the tallies of all workers. Idle label sets are dropped after `IDLE_S`.

    Args:
        now: monotonic seconds.
        recent: counts the same for the last minutes.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        now: Callable[[], float],
        recent: RecentTraffic | None = None,
    ) -> None:
        self._now = now
        self.recent = recent
        self._denied: Counter[tuple[str, ...]] = Counter()
        self._sums: dict[tuple[str, ...], _Sum] = {}
        registry.register(self)

    def add(self, series: list[Series]) -> None:
        """Add one worker's tally."""
        for labels, count, seconds, received, sent, buckets, edge, policy, example in series:
            durations, received_buckets, sent_buckets = buckets
            self._remember(tuple(labels), (count, received, sent, durations), edge, policy, example)
            key = tuple(labels)
            found = self._sums.get(key)
            if found is None:
                if len(self._sums) >= MAX_SERIES:
                    key = ("waypoint", *["overflow"] * (len(key) - 1))
                found = self._sums.setdefault(key, _Sum())
            found.count += count
            found.seconds += seconds
            found.received += received
            found.sent += sent
            found.buckets = _summed(found.buckets, durations)
            found.received_buckets = _summed(found.received_buckets, received_buckets)
            found.sent_buckets = _summed(found.sent_buckets, sent_buckets)
            found.touched_at = self._now()

    def _remember(
        self,
        labels: tuple[str, ...],
        counts: tuple[int, int, int, Sequence[int]],
        edge: Edge,
        policy: str,
        example: str,
    ) -> None:
        """Count for the last minutes, and denials by their rule."""
        count, received, sent, buckets = counts
        denied = count if policy else 0
        if policy:
            key = (policy,)
            if key not in self._denied and len(self._denied) >= MAX_POLICIES:
                key = (OVERFLOWED,)
            self._denied[key] += count
        if self.recent is None:
            return
        status, grpc = int(labels[_STATUS]), labels[_GRPC]
        failed = count if is_failure(status, int(grpc) if grpc else -1, policy) else 0
        self.recent.requests(edge, [count, count, failed, denied, received, sent, *buckets])
        if policy:
            self.recent.denials.add(request_denial(edge, policy, example, count))

    def describe(self) -> list[Metric]:
        counters, histograms = _families()
        return [*counters, *histograms, family(names.REQUESTS_DENIED, ())]

    def collect(self) -> Iterator[Metric]:
        oldest = self._now() - IDLE_S
        for key in [key for key, found in self._sums.items() if found.touched_at < oldest]:
            del self._sums[key]
        (total, received, sent), (durations, received_sizes, sent_sizes) = _families()
        for labels, found in self._sums.items():
            total.add_metric(labels, found.count)
            received.add_metric(labels, found.received)
            sent.add_metric(labels, found.sent)
            _add(durations, labels, found.buckets, found.seconds * 1000.0)
            _add(received_sizes, labels, found.received_buckets, found.received)
            _add(sent_sizes, labels, found.sent_buckets, found.sent)
        yield from (total, durations, received_sizes, sent_sizes, received, sent)
        yield family(names.REQUESTS_DENIED, self._denied.items())


_BOUNDS = (*(str(float(bound)) for bound in BUCKETS_MS), "+Inf")


def _add(
    metric: HistogramMetricFamily, labels: tuple[str, ...], counts: Sequence[int], total: float
) -> None:
    """Prometheus wants each bucket with all that is below it."""
    metric.add_metric(labels, list(zip(_BOUNDS, accumulate(counts), strict=True)), sum_value=total)


def _summed(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _families() -> tuple[list[CounterMetricFamily], list[HistogramMetricFamily]]:
    counters = (names.REQUESTS, names.REQUEST_BYTES_SUM, names.RESPONSE_BYTES_SUM)
    histograms = (names.REQUEST_DURATION, names.REQUEST_BYTES, names.RESPONSE_BYTES)
    return (
        [CounterMetricFamily(spec.name, spec.help, labels=spec.labels) for spec in counters],
        [HistogramMetricFamily(spec.name, spec.help, labels=spec.labels) for spec in histograms],
    )
