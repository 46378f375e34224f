"""What a waypoint exposes is what the reference lists."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from mesh.model.address import parse_socket_address
from mesh.model.identity import SpiffeId
from mesh.telemetry import names
from mesh.telemetry.event_counts import EventCounts
from mesh.telemetry.metrics import MeshMetrics
from mesh.telemetry.names import Kind, MetricSpec
from mesh.telemetry.request_log import LogMode, RequestLog
from mesh.telemetry.requests import RequestMetrics, RequestTally
from tests.unit.waypoint.records import record
from waypoint.feed import IssuerKeys, Stats
from waypoint.options import CaDirectory, WaypointOptions
from waypoint.supervisor import Supervisor
from waypoint.telemetry.gauges import WaypointState, _issuers

OWN = SpiffeId(trust_domain="t", namespace="shop", service_account="gate")
OPTIONS = WaypointOptions(
    name="shop/gate",
    service_account="gate",
    node="n",
    source=Path("/nowhere"),
    ca=CaDirectory(state_dir=Path("/nowhere")),
    listen=parse_socket_address("127.0.0.1:15008"),
    admin=parse_socket_address("127.0.0.1:15021"),
    workers=2,
    access_log=RequestLog(mode=LogMode.OFF),
    drain_timeout_s=1.0,
)


def exposed() -> tuple[CollectorRegistry, RequestMetrics]:
    registry = CollectorRegistry()
    requests = RequestMetrics(registry, lambda: 0.0)
    supervisor = Supervisor(
        options=OPTIONS,
        identity=OWN,
        metrics=requests,
        connections=MeshMetrics(registry, now=lambda: 0.0),
        counts=EventCounts(registry, names.WAYPOINT_COUNTERS),
        write=lambda _: None,
    )
    WaypointState(registry, supervisor)
    return registry, requests


def scraped(spec: MetricSpec) -> str:
    """The name of a family in the text."""
    return spec.name.removesuffix("_total") if spec.kind is Kind.COUNTER else spec.name


def test_every_metric_is_listed_and_every_listed_one_exists() -> None:
    registry, _ = exposed()
    listed = (*names.CONNECTION_METRICS, *names.REQUEST_METRICS, *names.WAYPOINT_METRICS)
    found = {metric.name for metric in registry.collect()}
    assert found == {scraped(spec) for spec in listed}
    assert len(listed) == len({spec.name for spec in listed})


def test_requests_have_istios_names_and_labels() -> None:
    registry, requests = exposed()
    tally = RequestTally("Kubernetes")
    for sent in (0, 30, 3000):
        tally.record(record(bytes_sent=sent))
    requests.add(tally.take())
    text = generate_latest(registry).decode()
    (line,) = [row for row in text.splitlines() if row.startswith("istio_requests_total{")]
    assert line.endswith(" 3.0")
    for part in (
        'reporter="waypoint"',
        'source_principal="spiffe://cluster.local/ns/shop/sa/client"',
        'destination_service="web.shop.svc.cluster.local"',
        'response_code="200"',
        'request_protocol="http"',
        'response_flags="-"',
    ):
        assert part in line
    sizes = {
        row.partition('le="')[2].partition('"')[0]: float(row.rpartition(" ")[2])
        for row in text.splitlines()
        if row.startswith("istio_response_bytes_bucket{")
    }
    assert (sizes["0.5"], sizes["50.0"], sizes["2500.0"], sizes["+Inf"]) == (1, 2, 2, 3)
    assert "istio_response_bytes_sum{" in text
    assert "istio_request_bytes_count{" in text


def test_the_worst_worker_speaks_for_an_issuer() -> None:
    def keys(count: int, failures: int) -> IssuerKeys:
        return IssuerKeys(
            source="https://id", keys=count, age_s=None, failures=failures, error="", problems=[]
        )

    def stats(one: IssuerKeys) -> Stats:
        return Stats(
            revision=1, tunnels=0, requests=0, lost_lines=0, endpoints=[], clusters=[],
            issuers=[one],
        )  # fmt: skip

    found = _issuers([stats(keys(2, 0)), stats(keys(0, 3)), stats(keys(1, 0))])
    assert found["https://id"].failures == 3
