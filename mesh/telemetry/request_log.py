"""One line per request: Envoy's default text with details and route behind it, or JSON.

What came from a client is escaped: a line stays a line and drives no terminal.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from mesh.model.request import RequestRecord


def format_text(record: RequestRecord) -> str:
    """Envoy's default format, then details, upstream identity and route."""
    upstream = str(record.upstream_addr) if record.upstream_addr else ""
    taken = "-" if record.upstream_s is None else str(round(record.upstream_s * 1000))
    request = f"{record.method or '-'} {record.path or '-'} {record.protocol}"
    quoted = (record.forwarded_for, record.user_agent, record.request_id, record.authority)
    return " ".join(
        (
            f"[{_instant(record)}]",
            _quote(request),
            str(record.status),
            record.flag,
            str(record.bytes_received),
            str(record.bytes_sent),
            str(round(record.duration_s * 1000)),
            taken,
            *(_quote(text) for text in quoted),
            _quote(upstream),
            _quote(record.details),
            _quote(record.src.identity),
            _quote(record.route),
        )
    )


def format_json(record: RequestRecord) -> str:
    """One JSON object with Envoy's field names."""
    fields: dict[str, object] = {
        "start_time": _instant(record),
        "method": record.method,
        "path": record.path,
        "protocol": record.protocol,
        "response_code": record.status,
        "response_flags": record.flag,
        "response_code_details": record.details,
        "bytes_received": record.bytes_received,
        "bytes_sent": record.bytes_sent,
        "duration": round(record.duration_s * 1000, 3),
        "upstream_service_time": _milliseconds(record.upstream_s),
        "x_forwarded_for": record.forwarded_for,
        "user_agent": record.user_agent,
        "request_id": record.request_id,
        "authority": record.authority,
        "upstream_host": str(record.upstream_addr) if record.upstream_addr else "",
        "downstream_peer": f"spiffe://{record.src.identity}" if record.src.identity else "",
        "upstream_workload": record.dst.name,
        "service": record.service,
        "route_name": record.route,
        "attempts": record.tries,
    }
    if record.policy:
        fields["policy"] = record.policy
    if record.audited:
        fields["audited"] = ", ".join(record.audited)
    if record.dry_run:
        fields["dry_run"] = ", ".join(record.dry_run)
    if record.grpc_status != -1:
        fields["grpc_status"] = record.grpc_status
    return json.dumps(fields, ensure_ascii=True).replace("\x7f", "\\u007f")


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _instant(record: RequestRecord) -> str:
    moment = datetime.fromtimestamp(record.started_at, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quote(text: str) -> str:
    return json.dumps(text or "-", ensure_ascii=True).replace("\x7f", "\\u007f")
