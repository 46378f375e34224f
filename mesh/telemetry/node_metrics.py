"""The node's own health as `meshnode_*` metrics, read at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.telemetry import names
from mesh.telemetry.families import Sample, family


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFill:
    """How full a BPF map is."""

    entries: int
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReadings:
    """The numbers of one instant.

    Attributes:
        kernel_events: count since load, by reason of the shared enum.
        pods: by state of enrolment (`pending`, `active`, `failed`).
        open_connections: by path.
        certificate_expiry: identity -> seconds since the epoch.
        worker_revision: oldest snapshot a worker serves, None without workers.
        problems: by severity.
    """

    version: str
    revision: int
    kernel_events: Mapping[str, int] = field(default_factory=dict)
    pods: Mapping[str, int] = field(default_factory=dict)
    workers_ready: int = 0
    workers_starting: int = 0
    worker_restarts: int = 0
    worker_revision: int | None = None
    tunnels: int = 0
    expired_cut: int = 0
    records_lost: int = 0
    streams: int = 0
    open_connections: Mapping[str, int] = field(default_factory=dict)
    certificate_expiry: Mapping[str, float] = field(default_factory=dict)
    problems: Mapping[str, int] = field(default_factory=dict)
    source_silence_s: float = 0.0
    ring_lost: int = 0
    access_log_dropped: int = 0
    maps: Mapping[str, MapFill] = field(default_factory=dict)


class NodeCollector(Collector):
    """Calls `read` once per scrape; `read` must not block."""

    def __init__(self, registry: CollectorRegistry, read: Callable[[], NodeReadings]) -> None:
        self._read = read
        registry.register(self)

    def describe(self) -> list[Metric]:
        """Names without values, so that registering reads nothing."""
        return [family(spec, ()) for spec in names.NODE_METRICS]

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        now = self._read()
        yield family(names.BUILD, [((now.version,), 1)])
        yield family(names.KERNEL, _by(now.kernel_events))
        yield family(names.ENROLMENT, _by(now.pods))
        yield family(
            names.WORKERS,
            [(("ready",), now.workers_ready), (("starting",), now.workers_starting)],
        )
        yield family(names.RESTARTS, _one(now.worker_restarts))
        yield family(names.TUNNELS, _one(now.tunnels))
        yield family(names.EXPIRED_CUT, _one(now.expired_cut))
        yield family(names.RECORDS_LOST, _one(now.records_lost))
        yield family(names.STREAMS, _one(now.streams))
        yield family(names.LIVE, _by(now.open_connections))
        yield family(names.CERT_EXPIRY, _by(now.certificate_expiry))
        yield family(names.REVISION, _one(now.revision))
        oldest = now.worker_revision
        yield family(names.WORKER_REVISION, () if oldest is None else _one(oldest))
        yield family(names.PROBLEMS, _by(now.problems))
        yield family(names.SOURCE_SILENCE, _one(now.source_silence_s))
        yield family(names.RING_LOST, _one(now.ring_lost))
        yield family(names.LOG_DROPPED, _one(now.access_log_dropped))
        yield family(names.MAP_ENTRIES, _by({k: fill.entries for k, fill in now.maps.items()}))
        yield family(names.MAP_CAPACITY, _by({k: fill.capacity for k, fill in now.maps.items()}))


def _one(value: float) -> list[Sample]:
    return [((), value)]


def _by(values: Mapping[str, int] | Mapping[str, float]) -> list[Sample]:
    return [((key,), value) for key, value in sorted(values.items())]
