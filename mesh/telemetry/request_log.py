"""One line per request: Envoy's default text with details and route behind it, or JSON.

What came from a client is escaped: a line stays a line and drives no terminal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from mesh.errors import ConfigError
from mesh.model.request import RequestFlag, RequestRecord

ERRORS_PER_S = 1000.0
"""Lines of one worker where only failures are logged: they come in storms."""
FAILED_CALLS = frozenset((2, 4, 12, 13, 14, 15))
"""Statuses of gRPC that are a server's failure (OpenTelemetry's conventions)."""


class LogMode(StrEnum):
    """`--access-log` of a waypoint."""

    ERRORS = "errors"
    ERRORS_JSON = "errors-json"
    TEXT = "text"
    JSON = "json"
    OFF = "off"

    @property
    def has_all(self) -> bool:
        return self in (LogMode.TEXT, LogMode.JSON)

    @property
    def is_json(self) -> bool:
        return self in (LogMode.JSON, LogMode.ERRORS_JSON)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLog:
    """Which requests have lines.

    Attributes:
        share: of those that did not fail, where all are logged.
        rate_per_s: lines of one worker, None: as many as there are.
    """

    mode: LogMode = LogMode.ERRORS
    share: float = 1.0
    rate_per_s: float | None = ERRORS_PER_S


def parse_request_log(mode: str, sample: str | None, rate: str | None) -> RequestLog:
    """Check `--access-log`, `--access-log-sample` and `--access-log-rate`. Raises `ConfigError`."""
    parsed = LogMode(mode)
    limit = None if parsed.has_all else ERRORS_PER_S
    if rate is not None:
        limit = _number("--access-log-rate", rate, "lines per second, 0 for no limit") or None
    share = 1.0
    if sample is not None:
        if not parsed.has_all:
            raise ConfigError(
                f"--access-log-sample is for text and json: --access-log {mode} shows failures only"
            )
        share = _number("--access-log-sample", sample, "a percentage from 0 to 100", 100.0) / 100
    return RequestLog(mode=parsed, share=share, rate_per_s=limit)


def _number(option: str, text: str, wanted: str, most: float = 1e9) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= most:
        raise ConfigError(f"{option} {text!r}: write {wanted}")
    return number


def is_failure(record: RequestRecord) -> bool:
    """Whether a request did not end well, or whether policy noted something about it."""
    return (
        record.status >= 500
        or record.flag is not RequestFlag.NONE
        or record.grpc_status in FAILED_CALLS
        or bool(record.policy or record.audited or record.dry_run)
    )


class LineBudget:
    """How many lines may be written: a second's worth at once. Pure.

    Args:
        now: the instant, in monotonic seconds, from which on it fills.
    """

    def __init__(self, rate_per_s: float | None, now: float) -> None:
        self._rate_per_s = rate_per_s
        self._tokens = rate_per_s or 0.0
        self._filled_at = now

    def take(self) -> bool:
        """Whether another line may be written."""
        if self._rate_per_s is None:
            return True
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def lend(self, now: float, returned: int) -> int:
        """Take back what somebody else had left; lend half of what there is."""
        rate = self._rate_per_s
        if rate is None:
            return UNLIMITED
        gained = (now - self._filled_at) * rate
        self._tokens = min(max(rate, 1.0), self._tokens + gained + returned)
        self._filled_at = now
        lent = int(self._tokens / 2)
        self._tokens -= lent
        return lent


UNLIMITED = 1 << 62


def format_notice(missing: int, *, as_json: bool) -> str:
    """The line that says how many are missing before it."""
    text = f"{missing} requests were not logged: more than the rate limit, or than there was room"
    if as_json:
        return json.dumps({"level": "warn", "scope": "access", "message": text})
    return f"- warn access {text}"


def format_text(record: RequestRecord) -> str:
    """Envoy's default format, then details, upstream identity and route."""
    upstream = str(record.upstream_addr) if record.upstream_addr else ""
    taken = "-" if record.upstream_s is None else str(round(record.upstream_s * 1000))
    request = f"{record.method or '-'} {record.path or '-'} {record.protocol}"
    quoted = (record.forwarded_for, record.user_agent, record.request_id, record.authority)
    return " ".join(
        (
            f"[{format_instant(record)}]",
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
        "start_time": format_instant(record),
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


def format_instant(record: RequestRecord) -> str:
    """When the request came."""
    moment = datetime.fromtimestamp(record.started_at, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quote(text: str) -> str:
    return json.dumps(text or "-", ensure_ascii=True).replace("\x7f", "\\u007f")
