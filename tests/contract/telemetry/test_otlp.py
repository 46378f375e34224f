"""Spans on their way to real OTLP servers, over HTTP and gRPC."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from mesh.model.span import Span, SpanCounts, SpanKind
from mesh.telemetry.otlp import SpanExport, open_export
from mesh.telemetry.trace_settings import parse_endpoint
from tests.support.otlp import Collector, attributes, collector, grpc_collector

SPAN = Span(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="00f067aa0ba902b7",
    parent_id="00f067aa0ba902b8",
    state="a=1",
    name="GET shop/web/0",
    kind=SpanKind.SERVER,
    start_ns=1_000,
    end_ns=2_000,
    attributes=(("http.request.method", "GET"), ("http.response.status_code", 503)),
    error="overflow",
)
# The exporter's HTTP library keeps its connection until it is collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


Running = Callable[[], AbstractContextManager[Collector]]
both = pytest.mark.parametrize("running", [collector, grpc_collector], ids=["http", "grpc"])


@both
def test_a_span_arrives_as_it_is(running: Running) -> None:
    with running() as server:
        export = open_export(parse_endpoint(server.url), {"service.name": "gate"})
        export.offer(SPAN)
        export.close(20.0)
        (span,) = server.wait_spans(bool)
        assert span.trace_id.hex() == SPAN.trace_id
        assert span.span_id.hex() == SPAN.span_id
        assert span.parent_span_id.hex() == SPAN.parent_id
        assert span.trace_state == "a=1"
        assert span.name == SPAN.name
        assert span.kind == trace_pb2.Span.SPAN_KIND_SERVER
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_000, 2_000)
        assert attributes(span) == dict(SPAN.attributes)
        assert span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
        assert span.status.message == "overflow"
        assert server.resource()["service.name"] == "gate"
        assert export.counts == SpanCounts(exported=1, failed=0, dropped=0)


@pytest.mark.parametrize(
    ("running", "status"), [(collector, 503), (grpc_collector, 14)], ids=["http", "grpc"]
)
def test_a_busy_collector_is_asked_again(running: Running, status: int) -> None:
    with running() as server:
        server.statuses[:] = [status]
        export = open_export(parse_endpoint(server.url), {})
        export.offer(SPAN)
        server.wait_spans(bool)
        export.close(20.0)
        assert export.counts.exported == 1


@pytest.mark.parametrize(
    ("running", "status"), [(collector, 400), (grpc_collector, 3)], ids=["http", "grpc"]
)
def test_a_collector_that_refuses_costs_the_batch_only(running: Running, status: int) -> None:
    with running() as server:
        server.statuses[:] = [status]
        export = open_export(parse_endpoint(server.url), {})
        export.offer(SPAN)
        export.close(20.0)
        assert export.counts == SpanCounts(exported=0, failed=1, dropped=0)


def test_a_span_that_is_none_harms_no_other() -> None:
    with collector() as server:
        export = open_export(parse_endpoint(server.url), {})
        export.offer(replace(SPAN, trace_id="not hexadecimal"))
        export.offer(SPAN)
        server.wait_spans(bool)
        export.close(20.0)
        assert export.counts == SpanCounts(exported=1, failed=1, dropped=0)


class Stuck:
    """An exporter whose collector never answers."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan], /) -> SpanExportResult:
        self.entered.set()
        self.released.wait(30)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.released.set()


def test_what_does_not_fit_is_counted_and_nobody_waits() -> None:
    stuck = Stuck()
    export = SpanExport(stuck, {}, queue_spans=10, batch_s=0.0)
    export.offer(SPAN)
    assert stuck.entered.wait(20)
    for number in range(25):
        export.offer(replace(SPAN, span_id=f"{number + 1:016x}"))
    export.add_dropped(5)
    assert export.counts.dropped == 15 + 5
    export.close(0.1)
    assert export.counts.exported == 0
