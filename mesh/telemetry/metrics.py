"""Counts connections under Istio's TCP names, so that its dashboards and Kiali work unchanged.

The counters live in a dict of our own behind a custom collector: an idle label set is dropped as a
whole after `idle_s` (to a scraper that is an ordinary counter reset), and a bounded number of them
exists. Beyond the bound, events are counted under the label value `overflow`, never lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.model.connection import ConnectionRecord, Party, Path, Reporter, ResponseFlag
from mesh.telemetry import names
from mesh.telemetry.families import Sample, family
from mesh.telemetry.window_feed import NO_FAILURE, RecentTraffic

UNKNOWN = "unknown"
OVERFLOWED = "overflow"
IDLE_S = 600.0
MAX_SERIES = 10_000
"""At about 1 KiB each: 10 MiB, and a scrape that stays under a second."""
MAX_POLICIES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedConnection:
    """A connection that was just accepted; its record follows when it ends."""

    reporter: Reporter
    path: Path
    src: Party
    dst: Party
    service: str = ""
    mutual_tls: bool = False


Described = OpenedConnection | ConnectionRecord


@dataclass(slots=True)
class _Ended:
    closed: int = 0
    failed: int = 0
    to_source: int = 0
    to_destination: int = 0


@dataclass(slots=True)
class _Series:
    """Counts of one label set; response_flags is the inner key."""

    touched_at: float
    opened: int = 0
    ended: dict[ResponseFlag, _Ended] = field(default_factory=dict)


class MeshMetrics(Collector):
    """The connection metrics of one node.

    Call `opened` when a connection is accepted and `record` exactly once when it ends. Those who
    learn of a connection only at its end (the kernel's direct path) say `also_opened=True`.

    Args:
        registry: where the collector registers itself.
        now: monotonic seconds, for dropping idle label sets.
        cluster: value of `source_cluster` and `destination_cluster`.
        service_domain: what follows `<name>.<namespace>.` in `destination_service`.
        recent: counts the same for the last minutes.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        now: Callable[[], float],
        cluster: str = "Kubernetes",
        service_domain: str = "svc.cluster.local",
        idle_s: float = IDLE_S,
        max_series: int = MAX_SERIES,
        recent: RecentTraffic | None = None,
    ) -> None:
        self._recent = recent
        self._now = now
        self._cluster = cluster
        self._service_domain = service_domain
        self._idle_s = idle_s
        self._max_series = max_series
        self._series: dict[tuple[str, ...], _Series] = {}
        self._paths: Counter[tuple[str, ...]] = Counter()
        self._audited: Counter[tuple[str, ...]] = Counter()
        self._dry_run: Counter[tuple[str, ...]] = Counter()
        self._denied: Counter[tuple[str, ...]] = Counter()
        self._overflow = 0
        registry.register(self)

    def opened(self, connection: Described) -> None:
        """Count a connection that was accepted."""
        self._touch(connection).opened += 1
        if self._recent is not None:
            self._recent.opened(connection)

    def record(self, record: ConnectionRecord, *, also_opened: bool = False) -> None:
        """Count a connection that ended, failed or was refused."""
        series = self._touch(record)
        series.opened += also_opened
        ended = series.ended.setdefault(record.flag, _Ended())
        ended.closed += 1
        ended.failed += record.flag not in NO_FAILURE
        ended.to_source += record.bytes_received
        ended.to_destination += record.bytes_sent
        self._paths[(record.reporter, record.path, record.flag)] += 1
        self._audited[(record.reporter,)] += bool(record.audited)
        self._dry_run[(record.reporter,)] += bool(record.dry_run)
        if record.flag is ResponseFlag.DENY:
            count_denial(self._denied, record.reporter, record.policy)
        if self._recent is not None:
            self._recent.record(record, also_opened=also_opened)

    def tally(
        self,
        record: ConnectionRecord,
        *,
        opened: int,
        ended: Mapping[ResponseFlag, int],
        sent: int,
        received: int,
    ) -> None:
        """Count connections that are all like `record`, and bytes that they moved since they were
        counted last; the bytes of open ones too."""
        series = self._touch(record)
        series.opened += opened
        moved = series.ended.setdefault(ResponseFlag.NONE, _Ended())
        moved.to_destination += sent
        moved.to_source += received
        failed = 0
        for flag, count in ended.items():
            counts = series.ended.setdefault(flag, _Ended())
            counts.closed += count
            counts.failed += count if flag not in NO_FAILURE else 0
            failed += count if flag not in NO_FAILURE else 0
            self._paths[(record.reporter, record.path, flag)] += count
        closed = sum(ended.values())
        self._audited[(record.reporter,)] += closed if record.audited else 0
        self._dry_run[(record.reporter,)] += closed if record.dry_run else 0
        if self._recent is not None:
            self._recent.tally(record, (opened, closed, failed, 0, sent, received))

    def count_policy(self, counts: Iterable[tuple[str, tuple[str, ...], int]]) -> None:
        """Count what policy said of requests; other metrics among `counts` are left alone."""
        sums = {
            spec.name: (found, len(spec.labels))
            for spec, found in (
                (names.AUDITED, self._audited),
                (names.DRY_RUN, self._dry_run),
                (names.DENIED, self._denied),
            )
        }
        for name, labels, count in counts:
            found, wanted = sums.get(name, (Counter[tuple[str, ...]](), -1))
            if count < 0 or len(labels) != wanted:
                continue
            key = tuple(labels)
            if key not in found and len(found) >= MAX_POLICIES:
                key = (key[0], *([OVERFLOWED] * (len(key) - 1)))
            found[key] += count

    def describe(self) -> list[Metric]:
        """Names without values, so that registering collects nothing."""
        return [family(spec, ()) for spec in names.CONNECTION_METRICS]

    def collect(self) -> Iterator[Metric]:
        """Drop what is idle, then yield every metric."""
        self._drop_idle()
        yield family(names.OPENED, self._samples_of_opened())
        yield family(names.CLOSED, self._samples_of_ended(lambda ended: ended.closed))
        yield family(names.FAILED, self._samples_of_ended(lambda ended: ended.failed))
        yield family(names.SENT, self._samples_of_ended(lambda ended: ended.to_source))
        yield family(names.RECEIVED, self._samples_of_ended(lambda ended: ended.to_destination))
        yield family(names.CONNECTIONS, self._paths.items())
        yield family(names.SERIES, [((), len(self._series))])
        yield family(names.OVERFLOW, [((), self._overflow)])
        yield family(names.AUDITED, self._audited.items())
        yield family(names.DRY_RUN, self._dry_run.items())
        yield family(names.DENIED, self._denied.items())

    def _touch(self, connection: Described) -> _Series:
        key = self._labels(connection)
        series = self._series.get(key)
        if series is None and len(self._series) >= self._max_series:
            self._drop_idle()
        if series is None and len(self._series) >= self._max_series:
            self._overflow += 1
            key = (connection.reporter, *([OVERFLOWED] * (len(key) - 1)))
            series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(self._now())
        series.touched_at = self._now()
        return series

    def _labels(self, connection: Described) -> tuple[str, ...]:
        """Values of `TCP_LABELS` without response_flags."""
        namespace, _, name = connection.service.rpartition("/")
        known = bool(namespace and name)
        return (
            connection.reporter,
            *self._party(connection.src),
            *self._party(connection.dst),
            f"{name}.{namespace}.{self._service_domain}" if known else UNKNOWN,
            name if known else UNKNOWN,
            namespace if known else UNKNOWN,
            "tcp",
            _security(connection),
        )

    def _party(self, party: Party) -> tuple[str, ...]:
        canonical = party.canonical_service or UNKNOWN
        revision = party.canonical_revision or UNKNOWN
        return (
            party.app_name or party.name or UNKNOWN,
            party.namespace or UNKNOWN,
            f"spiffe://{party.identity}" if party.identity else UNKNOWN,
            canonical,
            revision,
            self._cluster if party.workload else UNKNOWN,
            canonical,
            revision,
        )

    def _samples_of_opened(self) -> Iterator[Sample]:
        for key, series in self._series.items():
            if series.opened:
                yield _with_flag(key, ResponseFlag.NONE), series.opened

    def _samples_of_ended(self, value: Callable[[_Ended], int]) -> Iterator[Sample]:
        for key, series in self._series.items():
            for flag, ended in series.ended.items():
                yield _with_flag(key, flag), value(ended)

    def _drop_idle(self) -> None:
        oldest = self._now() - self._idle_s
        for key in [key for key, series in self._series.items() if series.touched_at < oldest]:
            del self._series[key]


def count_denial(
    counts: Counter[tuple[str, ...]], reporter: str, policy: str, times: int = 1
) -> None:
    """Count denials by their rule; so many rules that they would not fit are one."""
    key = (reporter, policy or "none")
    if key not in counts and len(counts) >= MAX_POLICIES:
        key = (reporter, OVERFLOWED)
    counts[key] += times


def _with_flag(key: tuple[str, ...], flag: ResponseFlag) -> tuple[str, ...]:
    """Put response_flags where `TCP_LABELS` has it: before the last label."""
    return (*key[:-1], flag, key[-1])


def _security(connection: Described) -> str:
    """`none` where we know that bytes travelled as they were, `unknown` for a failed tunnel."""
    if connection.mutual_tls:
        return "mutual_tls"
    return UNKNOWN if connection.path is Path.HBONE else "none"
