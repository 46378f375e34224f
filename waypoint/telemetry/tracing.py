"""The span of a request, from its record (OpenTelemetry's HTTP semantic conventions). Pure."""

from __future__ import annotations

from mesh.model.request import RequestFlag, RequestRecord
from mesh.model.span import Span, SpanKind, SpanValue
from mesh.telemetry.trace_context import Trace

_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
)
_VERSIONS = {"HTTP/1.1": "1.1", "HTTP/2": "2"}
_MAX_TEXT = 512
"""Of what a client chose."""


def request_span(trace: Trace, record: RequestRecord) -> Span:
    """Describe a request that ended; the name has no more values than there are routes."""
    method = record.method if record.method in _METHODS else "_OTHER"
    start_ns = int(record.started_at * 1e9)
    named = "HTTP" if method == "_OTHER" else method
    error = _error(record)
    attributes = _always(method, record) | _texts(record) | _sometimes(method, record)
    if error:
        attributes["error.type"] = error
    return Span(
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_id=trace.parent_id,
        state=trace.state,
        name=f"{named} {record.route}" if record.route else named,
        kind=SpanKind.SERVER,
        start_ns=start_ns,
        end_ns=start_ns + int(record.duration_s * 1e9),
        attributes=tuple(attributes.items()),
        error=record.details if error else "",
    )


def _always(method: str, record: RequestRecord) -> dict[str, SpanValue]:
    return {
        "http.request.method": method,
        "url.scheme": "http",
        "url.path": record.path.partition("?")[0][:_MAX_TEXT],
        "network.protocol.name": "http",
        "network.protocol.version": _VERSIONS.get(record.protocol, ""),
        "client.address": str(record.client_addr.ip),
        "network.peer.address": str(record.client_addr.ip),
        "http.request.body.size": record.bytes_received,
        "http.response.body.size": record.bytes_sent,
        "meshnode.response_flags": str(record.flag),
        "meshnode.response_details": record.details,
        "meshnode.request_id": record.request_id,
    }


def _sometimes(method: str, record: RequestRecord) -> dict[str, SpanValue]:
    attributes: dict[str, SpanValue] = {}
    if method == "_OTHER":
        attributes["http.request.method_original"] = record.method[:_MAX_TEXT]
    if record.status:
        attributes["http.response.status_code"] = record.status
    if record.grpc_status != -1:
        attributes["rpc.system"] = "grpc"
        attributes["rpc.grpc.status_code"] = record.grpc_status
    if record.tries > 1:
        attributes["http.request.resend_count"] = record.tries - 1
    if record.upstream_addr is not None:
        attributes["meshnode.upstream.address"] = str(record.upstream_addr)
    return attributes


def _texts(record: RequestRecord) -> dict[str, SpanValue]:
    """What is left out where it is not known."""
    host, _, port = record.authority.rpartition(":")
    host, port = (
        (host, port) if port.isascii() and port.isdigit() and host else (record.authority, "")
    )
    texts: dict[str, str] = {
        "server.address": host[:_MAX_TEXT],
        "user_agent.original": record.user_agent[:_MAX_TEXT],
        "meshnode.route": record.route,
        "meshnode.service": record.service,
        "meshnode.policy": record.policy,
        "meshnode.source.principal": record.src.identity and f"spiffe://{record.src.identity}",
        "meshnode.source.workload": record.src.name,
        "meshnode.source.namespace": record.src.namespace,
        "meshnode.destination.workload": record.dst.name,
        "meshnode.destination.namespace": record.dst.namespace,
        "meshnode.destination.canonical_service": record.dst.canonical_service,
    }
    found: dict[str, SpanValue] = {name: text for name, text in texts.items() if text}
    if port:
        found["server.port"] = int(port[:5])
    return found


def _error(record: RequestRecord) -> str:
    """A server's span fails for 5xx only; a client that left is no error."""
    if record.status >= 500:
        return str(record.status)
    if record.grpc_status in (2, 4, 12, 13, 14, 15):
        return str(record.grpc_status)
    gone = record.flag in (RequestFlag.NONE, RequestFlag.DOWNSTREAM_CLOSED)
    return "" if gone or record.status else str(record.flag)
