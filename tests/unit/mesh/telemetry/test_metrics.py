"""Connection metrics: Istio's names, labels and direction; idle and overflowing label sets."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mesh.model.connection import ConnectionRecord, Party, Path, ResponseFlag
from mesh.telemetry import names
from mesh.telemetry.metrics import MeshMetrics
from tests.unit.mesh.telemetry.records import BASE, denied


class Clock:
    """Monotonic seconds under the test's control."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def scrape(registry: CollectorRegistry) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What a Prometheus reads: sample name -> labels and value."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for metric in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in metric.samples:
            samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return samples


def total(registry: CollectorRegistry, name: str) -> float:
    return sum(value for _, value in scrape(registry).get(name, []))


def client(number: int) -> ConnectionRecord:
    return replace(BASE, src=replace(BASE.src, app_name=f"client-{number}"))


def test_a_connection_is_counted_open_then_closed() -> None:
    registry = CollectorRegistry()
    metrics = MeshMetrics(registry, now=Clock())
    metrics.opened(BASE)
    assert total(registry, "istio_tcp_connections_opened_total") == 1
    assert total(registry, "istio_tcp_connections_closed_total") == 0
    metrics.record(BASE)
    assert total(registry, "istio_tcp_connections_opened_total") == 1
    assert total(registry, "istio_tcp_connections_closed_total") == 1
    assert total(registry, "istio_tcp_connections_failed_total") == 0


def test_bytes_are_counted_in_the_direction_istio_means() -> None:
    registry = CollectorRegistry()
    MeshMetrics(registry, now=Clock()).record(BASE)
    assert total(registry, "istio_tcp_sent_bytes_total") == BASE.bytes_received
    assert total(registry, "istio_tcp_received_bytes_total") == BASE.bytes_sent


def test_labels_are_istios() -> None:
    registry = CollectorRegistry()
    MeshMetrics(registry, now=Clock()).record(BASE)
    [(labels, _)] = scrape(registry)["istio_tcp_connections_closed_total"]
    assert labels == {
        "reporter": "source",
        "source_workload": "cart",
        "source_workload_namespace": "shop",
        "source_principal": "spiffe://cluster.local/ns/shop/sa/cart",
        "source_app": "cart",
        "source_version": "v1",
        "source_cluster": "Kubernetes",
        "source_canonical_service": "cart",
        "source_canonical_revision": "v1",
        "destination_workload": "pay",
        "destination_workload_namespace": "bank",
        "destination_principal": "spiffe://cluster.local/ns/bank/sa/pay",
        "destination_app": "pay",
        "destination_version": "v2",
        "destination_cluster": "Kubernetes",
        "destination_canonical_service": "pay",
        "destination_canonical_revision": "v2",
        "destination_service": "pay.bank.svc.cluster.local",
        "destination_service_name": "pay",
        "destination_service_namespace": "bank",
        "request_protocol": "tcp",
        "response_flags": "-",
        "connection_security_policy": "mutual_tls",
    }


def test_what_is_not_known_says_unknown() -> None:
    registry = CollectorRegistry()
    record = replace(BASE, src=Party(), dst=Party(), service="")
    MeshMetrics(registry, now=Clock()).record(record)
    [(labels, _)] = scrape(registry)["istio_tcp_connections_closed_total"]
    known = {"reporter", "request_protocol", "response_flags", "connection_security_policy"}
    assert {value for name, value in labels.items() if name not in known} == {"unknown"}


def test_a_refused_connection_is_failed_with_its_flag() -> None:
    registry = CollectorRegistry()
    MeshMetrics(registry, now=Clock()).record(denied(), also_opened=True)
    [(labels, value)] = scrape(registry)["istio_tcp_connections_failed_total"]
    assert (labels["response_flags"], value) == ("DENY", 1)
    assert labels["connection_security_policy"] == "none"
    assert total(registry, "istio_tcp_connections_opened_total") == 1


def test_a_tunnel_that_failed_has_unknown_security() -> None:
    registry = CollectorRegistry()
    record = replace(BASE, flag=ResponseFlag.TLS_FAILURE, mutual_tls=False)
    MeshMetrics(registry, now=Clock()).record(record)
    [(labels, _)] = scrape(registry)["istio_tcp_connections_failed_total"]
    assert labels["connection_security_policy"] == "unknown"


def test_the_path_is_a_label_of_our_own_metric_only() -> None:
    registry = CollectorRegistry()
    metrics = MeshMetrics(registry, now=Clock())
    metrics.record(replace(BASE, path=Path.DIRECT, mutual_tls=False))
    samples = scrape(registry)
    assert samples["meshnode_connections_total"] == [
        ({"reporter": "source", "path": "direct", "response_flags": "-"}, 1.0)
    ]
    istio = [labels for name in samples if name.startswith("istio_") for labels, _ in samples[name]]
    assert all("path" not in labels for labels in istio)


def test_a_series_nobody_touched_for_ten_minutes_is_dropped() -> None:
    registry, clock = CollectorRegistry(), Clock()
    metrics = MeshMetrics(registry, now=clock)
    metrics.record(client(1))
    clock.now += 300
    metrics.record(client(2))
    clock.now += 301
    [(labels, _)] = scrape(registry)["istio_tcp_connections_closed_total"]
    assert labels["source_workload"] == "client-2"


def test_too_many_series_are_counted_under_overflow() -> None:
    registry = CollectorRegistry()
    metrics = MeshMetrics(registry, now=Clock(), max_series=2)
    for number in range(5):
        metrics.record(client(number))
    metrics.record(client(0))
    closed = {
        labels["source_workload"]: value
        for labels, value in scrape(registry)["istio_tcp_connections_closed_total"]
    }
    assert closed == {"client-0": 2, "client-1": 1, "overflow": 3}
    assert total(registry, "meshnode_metrics_overflow_total") == 3
    assert total(registry, "meshnode_metrics_series") == 3


def test_room_made_by_idle_series_is_used_before_overflowing() -> None:
    registry, clock = CollectorRegistry(), Clock()
    metrics = MeshMetrics(registry, now=clock, max_series=1)
    metrics.record(client(1))
    clock.now += 601
    metrics.record(client(2))
    assert total(registry, "meshnode_metrics_overflow_total") == 0


def test_audit_and_dry_run_are_counted() -> None:
    registry = CollectorRegistry()
    metrics = MeshMetrics(registry, now=Clock())
    metrics.record(replace(BASE, audited=("AuthorizationPolicy a/b rule[0]",)))
    metrics.record(replace(BASE, dry_run=("AuthorizationPolicy a/c",)))
    assert total(registry, "meshnode_policy_audited_total") == 1
    assert total(registry, "meshnode_policy_dry_run_denied_total") == 1


def test_every_metric_of_the_table_is_emitted_with_its_labels() -> None:
    registry = CollectorRegistry()
    metrics = MeshMetrics(registry, now=Clock())
    metrics.record(denied(), also_opened=True)
    samples = scrape(registry)
    for spec in names.CONNECTION_METRICS:
        assert all(set(labels) == set(spec.labels) for labels, _ in samples[spec.name]), spec.name
