"""Collectors that speak OTLP over HTTP and gRPC, and keep what they get."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(slots=True)
class Collector:
    """What was received.

    Attributes:
        url: its base; statuses: answered to the first requests, instead of taking them.
    """

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def spans(self) -> list[Span]:
        with self.arrived:
            return [
                span
                for request in self.requests
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]

    def resource(self) -> dict[str, str]:
        found = self.requests[0].resource_spans[0].resource.attributes
        return {item.key: item.value.string_value for item in found}

    def wait_spans(self, holds: Callable[[list[Span]], bool], limit_s: float = 30.0) -> list[Span]:
        """Wait until what arrived is enough."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: holds(self.spans()), limit_s), self.spans()
        return self.spans()


def attributes(span: Span) -> dict[str, str | int]:
    """The attributes of a span."""
    return {
        item.key: item.value.int_value
        if item.value.HasField("int_value")
        else item.value.string_value
        for item in span.attributes
    }


@contextmanager
def collector(
    host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Collector]:
    """Run a collector in a thread with a loop of its own."""
    made = Collector()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()

    async def traces(request: web.Request) -> web.Response:
        if made.statuses:
            return web.Response(status=made.statuses.pop(0))
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        message = ExportTraceServiceRequest.FromString(body)
        with made.arrived:
            made.requests.append(message)
            made.arrived.notify_all()
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/traces", traces)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        scheme, name = ("http", host) if tls is None else ("https", "localhost")
        made.url = f"{scheme}://{name}:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    def run() -> None:
        loop.run_until_complete(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(20)
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextmanager
def grpc_collector(tls: grpc.ServerCredentials | None = None) -> Iterator[Collector]:
    """Run one that speaks gRPC; `statuses` are gRPC's codes."""
    made = Collector()
    codes = {code.value[0]: code for code in grpc.StatusCode}

    def export(data: bytes, context: grpc.ServicerContext) -> bytes:
        if made.statuses:
            context.abort(codes[made.statuses.pop(0)], "not now")
        with made.arrived:
            made.requests.append(ExportTraceServiceRequest.FromString(data))
            made.arrived.notify_all()
        return ExportTraceServiceResponse().SerializeToString()

    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    handler = grpc.unary_unary_rpc_method_handler(export)
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, {"Export": handler})]
        )
        if tls is None:
            made.url = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        else:
            made.url = f"grpcs://localhost:{server.add_secure_port('127.0.0.1:0', tls)}"
        server.start()
        try:
            yield made
        finally:
            server.stop(None).wait()
