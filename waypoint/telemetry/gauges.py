"""The state of a waypoint as metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.telemetry import names
from mesh.telemetry.families import Sample, family
from mesh.telemetry.names import MetricSpec
from waypoint.feed import IssuerKeys, Stats
from waypoint.supervisor import Supervisor


class WaypointState(Collector):
    """Reads the supervisor when it is scraped."""

    def __init__(self, registry: CollectorRegistry, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        registry.register(self)

    def describe(self) -> list[Metric]:
        return [family(spec, ()) for spec in names.WAYPOINT_STATE]

    def collect(self) -> Iterator[Metric]:
        for spec, samples in self._samples().items():
            yield family(spec, samples)

    def _samples(self) -> Mapping[MetricSpec, list[Sample]]:
        supervisor = self._supervisor
        workers = list(supervisor.workers.values())
        stats = [worker.stats for worker in workers if worker.stats is not None]
        ready = sum(worker.ready for worker in workers)
        counts = supervisor.spans.counts if supervisor.spans is not None else None
        spans = [("exported", counts.exported), ("failed", counts.failed)] if counts else []
        spans += [("dropped", counts.dropped)] if counts else []
        keys = _issuers(stats)
        lost = sum(item.lost_lines for item in stats)
        return {
            names.WAYPOINT_WORKERS: [
                (("ready",), ready),
                (("starting",), supervisor.options.workers - ready),
            ],
            names.WAYPOINT_RESTARTS: [((), supervisor.restarts)],
            names.WAYPOINT_TUNNELS: [((), sum(item.tunnels for item in stats))],
            names.WAYPOINT_ACTIVE: [((), sum(item.requests for item in stats))],
            names.WAYPOINT_REVISION: [((), min((item.revision for item in stats), default=0))],
            names.WAYPOINT_LOG_DROPPED: [((), lost + supervisor.unwritten())],
            names.ISSUER_KEYS: [((source,), item.keys) for source, item in keys.items()],
            names.ISSUER_FAILURES: [((source,), item.failures) for source, item in keys.items()],
            names.TRACE_SPANS: [((outcome,), count) for outcome, count in spans],
        }


def _issuers(stats: list[Stats]) -> Mapping[str, IssuerKeys]:
    """Of several workers the one that is worst off."""
    found: dict[str, IssuerKeys] = {}
    for item in stats:
        for issuer in item.issuers:
            known = found.get(issuer.source)
            if known is None or (issuer.keys, -issuer.failures) < (known.keys, -known.failures):
                found[issuer.source] = issuer
    return found
