"""Traces through the proxy: what the server gets, and the span that is made."""

from __future__ import annotations

from random import Random

from mesh.http1.message import Framing, RequestHead
from mesh.model.request import RequestRecord
from mesh.model.span import Span
from mesh.telemetry.trace_context import Trace, TraceStarter
from tests.contract.http1.stage import run
from tests.contract.waypoint.authorizers import app
from tests.contract.waypoint.scene import Scene, Script, scene
from waypoint.exchange.forward_headers import caller_fields, prepare_request
from waypoint.telemetry.tracing import request_span

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def traced(here: Scene, spans: list[Span], sampling: float | None) -> None:
    """Let a scene's proxy trace."""

    def span(trace: Trace, record: RequestRecord) -> None:
        spans.append(request_span(trace, record))

    here.proxy._traces = TraceStarter(sampling, exports=True, random=Random(1))
    here.proxy._span = span


def test_the_server_is_the_child_of_our_span() -> None:
    async def main() -> None:
        spans: list[Span] = []
        async with scene(app, script=Script()) as here:
            traced(here, spans, 0.0)
            sent = f"traceparent: 00-{TRACE}-{PARENT}-01"
            _, _, body = await here.get("/a?secret=1", sent, "tracestate: v=1", "b3: 0")
            (span,) = spans
            assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
            assert f"traceparent: 00-{TRACE}-{span.span_id}-01".encode() in body
            assert b"tracestate: v=1" in body
            assert b"b3:" not in body
            found = dict(span.attributes)
            assert span.name == "GET default"
            assert found["http.response.status_code"] == 200
            assert found["url.path"] == "/a"
            assert found["meshnode.source.principal"] == "spiffe://cluster.local/ns/shop/sa/client"
            assert "secret" not in repr(span)
            assert not span.error
            # Not sampled by its caller: no span, and the context is left alone.
            _, _, body = await here.get("/", f"traceparent: 00-{TRACE}-{PARENT}-00")
            assert f"traceparent: 00-{TRACE}-{PARENT}-00".encode() in body
            assert len(spans) == 1

    run(main())


def test_a_refusal_of_ours_is_an_error() -> None:
    async def main() -> None:
        spans: list[Span] = []
        async with scene(script=Script()) as here:  # no endpoint
            traced(here, spans, 1.0)
            assert (await here.get("/"))[0] == 503
            (span,) = spans
            assert dict(span.attributes)["error.type"] == "503"
            assert span.error == "no_healthy_upstream"
            assert span.parent_id == ""

    run(main())


def test_without_a_trace_the_head_goes_on_untouched() -> None:
    head = RequestHead(
        method=b"GET",
        target=b"/",
        host=b"w",
        headers=[(b"traceparent", b"x"), (b"b3", b"application/grpc")],
        minor=1,
        framing=Framing.NONE,
        length=None,
        keep_alive=True,
    )
    seen = prepare_request(head, caller_fields(None, None, "10.0.0.1"), Random(1))
    assert not seen.is_grpc
    assert head.headers[:2] == [(b"traceparent", b"x"), (b"b3", b"application/grpc")]
