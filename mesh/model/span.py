"""One span of a trace, as it is handed to whoever exports it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SpanValue = str | int | float | bool


class SpanKind(StrEnum):
    """Which side of a call observed it (OpenTelemetry)."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanCounts:
    """What became of spans since the start."""

    exported: int
    failed: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A finished span.

    Attributes:
        trace_id: 32 hexadecimal digits; span_id and parent_id: 16, parent_id empty in a root.
        state: `tracestate`, as it came.
        error: what went wrong, empty if nothing did.
    """

    trace_id: str
    span_id: str
    parent_id: str
    state: str
    name: str
    kind: SpanKind
    start_ns: int
    end_ns: int
    attributes: tuple[tuple[str, SpanValue], ...]
    error: str = ""
