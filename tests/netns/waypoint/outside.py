"""What a waypoint asks of others, in one server: `python outside.py PORT KEYS_FILE`.

An issuer (`/certs`), an external authorizer (`/check/…`), an OTLP collector (`/v1/traces`). Says
one line of JSON per question.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def make_app(keys: bytes) -> web.Application:
    async def certs(request: web.Request) -> web.Response:
        say(kind="certs", peer=request.remote)
        return web.Response(body=keys)

    async def check(request: web.Request) -> web.Response:
        say(kind="check", path=request.path_qs, method=request.method)
        if request.headers.get("x-ticket") == "good":
            return web.Response(headers={"x-user": "ann"})
        return web.Response(status=402, text="no ticket\n")

    async def traces(request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    say(
                        kind="span",
                        name=span.name,
                        trace=span.trace_id.hex(),
                        parent=span.parent_span_id.hex(),
                        id=span.span_id.hex(),
                    )
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_get("/certs", certs)
    app.router.add_route("*", "/check/{rest:.*}", check)
    app.router.add_post("/v1/traces", traces)
    return app


if __name__ == "__main__":
    served = make_app(Path(sys.argv[2]).read_bytes())
    web.run_app(served, port=int(sys.argv[1]), print=lambda *_: None)
