"""The node's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from mesh.telemetry import names
from mesh.telemetry.node_metrics import MapFill, NodeCollector, NodeReadings
from tests.unit.mesh.telemetry.test_metrics import scrape

FULL = NodeReadings(
    version="0.1.0",
    revision=7,
    kernel_events={"allow": 5, "deny": 2},
    pods={"active": 3, "failed": 1},
    workers_ready=2,
    worker_revision=6,
    tunnels=4,
    streams=9,
    open_connections={"hbone": 9, "direct": 1},
    certificate_expiry={"spiffe://cluster.local/ns/a/sa/b": 1_700_000_000.0},
    problems={"error": 1},
    source_silence_s=12.5,
    ring_lost=11,
    maps={"mn_workload": MapFill(entries=3, capacity=1024)},
)


def test_every_metric_of_the_table_is_emitted_with_its_labels() -> None:
    registry = CollectorRegistry()
    NodeCollector(registry, lambda: FULL)
    samples = scrape(registry)
    assert set(samples) == {spec.name for spec in names.NODE_METRICS}
    for spec in names.NODE_METRICS:
        assert all(set(labels) == set(spec.labels) for labels, _ in samples[spec.name]), spec.name
    assert samples["meshnode_kernel_events_total"] == [
        ({"reason": "allow"}, 5),
        ({"reason": "deny"}, 2),
    ]
    assert samples["meshnode_map_entries"] == [({"map": "mn_workload"}, 3)]
    assert samples["meshnode_ring_lost_events_total"] == [({}, 11)]
    assert samples["meshnode_source_silence_seconds"] == [({}, 12.5)]


def test_each_scrape_reads_anew() -> None:
    revisions = iter((1, 2))
    registry = CollectorRegistry()
    NodeCollector(registry, lambda: NodeReadings(version="0", revision=next(revisions)))
    assert scrape(registry)["meshnode_snapshot_revision"] == [({}, 1)]
    assert scrape(registry)["meshnode_snapshot_revision"] == [({}, 2)]


def test_without_workers_there_is_no_oldest_revision() -> None:
    registry = CollectorRegistry()
    NodeCollector(registry, lambda: NodeReadings(version="0", revision=1))
    assert "meshnode_worker_snapshot_revision_min" not in scrape(registry)
