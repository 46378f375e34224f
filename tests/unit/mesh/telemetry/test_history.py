"""Prometheus' answers as traffic: what is summed, what is a failure, and the course."""

from __future__ import annotations

import pytest

from mesh.telemetry.history import Answer, Counted, Series, history, queries, quote
from mesh.telemetry.window_stats import By, edges, stat

WEB_TO_CART = {
    "reporter": "source",
    "source_workload_namespace": "shop",
    "source_workload": "web",
    "source_principal": "spiffe://cluster.local/ns/shop/sa/web",
    "destination_workload_namespace": "shop",
    "destination_workload": "cart",
    "destination_principal": "spiffe://cluster.local/ns/shop/sa/cart",
    "destination_service_namespace": "unknown",
    "destination_service_name": "unknown",
    "connection_security_policy": "mutual_tls",
}
REQUESTS = {
    **WEB_TO_CART,
    "reporter": "waypoint",
    "destination_service_namespace": "shop",
    "destination_service_name": "cart",
}


def one(counted: Counted, value: float, base: dict[str, str], **labels: str) -> Answer:
    return counted, [Series(labels={**base, **labels}, values=[(100.0, value)])]


def test_connections() -> None:
    found = history("p", 3600.0, [
        one(Counted.OPENED, 7200.2, WEB_TO_CART),
        one(Counted.CLOSED, 90, WEB_TO_CART, response_flags="-"),
        one(Counted.CLOSED, 10, WEB_TO_CART, response_flags="DENY"),
        one(Counted.FAILED, 10, WEB_TO_CART, response_flags="DENY"),
        one(Counted.SENT, 36000, WEB_TO_CART),
        one(Counted.RECEIVED, 72000, WEB_TO_CART),
    ])  # fmt: skip
    (row,) = stat([found], By.WORKLOAD)
    assert (row.name, row.success, row.denied) == ("shop/cart", 0.9, 10)
    assert (row.connections_s, row.sent_s, row.received_s) == (2.0, 10.0, 20.0)
    (edge,) = edges([found])
    assert (edge.src, edge.path, edge.secured) == ("shop/web", "hbone", True)
    assert edge.src_identity == "cluster.local/ns/shop/sa/web"
    assert edge.services == ()


@pytest.mark.parametrize(
    ("principal", "path", "secured"),
    [("spiffe://cluster.local/ns/shop/sa/web", "direct", True), ("unknown", "passthrough", False)],
)
def test_what_was_in_no_tunnel(principal: str, path: str, secured: bool) -> None:
    labels = {"connection_security_policy": "none", "source_principal": principal}
    found = history("p", 60.0, [one(Counted.OPENED, 3, WEB_TO_CART, **labels)])
    (edge,) = edges([found])
    assert (edge.path, edge.secured) == (path, secured)


def test_requests_and_their_durations() -> None:
    found = history("p", 100.0, [
        one(Counted.REQUESTS, 80, REQUESTS, response_code="200", response_flags="-"),
        one(Counted.REQUESTS, 5, REQUESTS, response_code="503", response_flags="UF"),
        one(Counted.REQUESTS, 3, REQUESTS, response_code="403", response_flags="UAEX"),
        one(Counted.REQUESTS, 4, {**REQUESTS, "destination_workload": "unknown"},
            response_code="403", response_flags="-"),
        one(Counted.REQUESTS, 6, REQUESTS, response_code="403", response_flags="-"),
        one(Counted.REQUESTS, 2, REQUESTS, response_code="200", grpc_response_status="13"),
        one(Counted.DURATIONS, 50, REQUESTS, le="5"),
        one(Counted.DURATIONS, 100, REQUESTS, le="10"),
        one(Counted.DURATIONS, 100, REQUESTS, le="+Inf"),
    ])  # fmt: skip
    (row,) = stat([found], By.SERVICE)
    assert (row.name, row.rps, row.success, row.denied) == ("shop/cart", 1.0, 0.86, 7)
    assert row.p50_ms == 5.0
    assert row.p99_ms is not None
    assert 9.8 < row.p99_ms < 10
    assert {(edge.path, edge.secured) for edge in edges([found])} == {("waypoint", True)}


def test_a_course_and_what_is_idle() -> None:
    totals = [
        one(Counted.CLOSED, 5, WEB_TO_CART, response_flags="-"),
        one(Counted.OPENED, 0, {**WEB_TO_CART, "source_workload": "idle"}),
    ]
    course: list[Answer] = [
        (Counted.CLOSED, [Series(labels=WEB_TO_CART, values=[(40.0, 2.0), (60.0, 3.0)])]),
        (Counted.FAILED, [Series(labels=WEB_TO_CART, values=[(60.0, 1.0)])]),
        (Counted.SENT, [Series(labels=WEB_TO_CART, values=[(60.0, 20.0)])]),
    ]
    found = history("p", 60.0, totals, course, now=60.0, step_s=20.0)
    (edge,) = found.edges
    assert [(p.ago_s, p.span_s, p.closed, p.failed, p.bytes) for p in edge.points] == [
        (40.0, 20.0, 2, 0, 0),
        (20.0, 20.0, 3, 1, 20),
    ]


def test_a_name_is_only_ever_a_string() -> None:
    assert quote('a"} or vector(1) #\\\n') == '"a\\"} or vector(1) #\\\\\\n"'
    exprs = [asked.expr for asked in queries('shop/x"')]
    assert all('source_workload="x\\""' in expr for expr in exprs)
    assert len(queries()) == len(Counted)
