"""Trace contexts in header fields: W3C first, B3 understood. Pure.

A context that came goes on in the form it came in, and if both forms came only W3C does. It is
changed only where a span of our own stands between: a hop that records nothing must not pretend
to be a parent. The caller's decision to sample is kept; only requests without a context are
decided here. (W3C Trace Context; B3 propagation of openzipkin.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

TRACEPARENT, TRACESTATE, B3 = b"traceparent", b"tracestate", b"b3"
_B3_TRACE, _B3_SPAN = b"x-b3-traceid", b"x-b3-spanid"
_B3_SAMPLED, _B3_FLAGS, _B3_PARENT = b"x-b3-sampled", b"x-b3-flags", b"x-b3-parentspanid"
TRACE_FIELDS = frozenset(
    (TRACEPARENT, TRACESTATE, B3, _B3_TRACE, _B3_SPAN, _B3_SAMPLED, _B3_FLAGS, _B3_PARENT)
)

Fields = list[tuple[bytes, bytes]]

_W3C = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_B3_SINGLE = re.compile(
    rb"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?"
)
_HEX_TRACE = re.compile(rb"[0-9a-f]{32}|[0-9a-f]{16}")
_HEX_SPAN = re.compile(rb"[0-9a-f]{16}")
_SAMPLED = 1
_MAX_STATE_BYTES = 4096
"""The recommendation asks for 512; more than this is not worth carrying to a collector."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A span of ours to be made: who it is, and whose child."""

    trace_id: str
    span_id: str
    parent_id: str
    state: str


@dataclass(frozen=True, slots=True)
class _Parent:
    """A context that came; `sampled` None: the caller leaves it to us."""

    trace_id: bytes
    span_id: bytes
    sampled: bool | None


class TraceStarter:
    """Decides about the traces of one worker.

    Args:
        sampling: share of new traces that are sampled, 0 to 1; None: no trace begins here.
        exports: spans go somewhere, so that sampled traces get one of ours.
    """

    def __init__(self, sampling: float | None, *, exports: bool, random: Random) -> None:
        self._sampling = sampling
        self._exports = exports
        self._random = random

    def follow(self, came: Sequence[tuple[bytes, bytes]], kept: Fields) -> Trace | None:
        """Put the context that goes on behind `kept`; return the span to make, if one is.

        `came` are the fields of `TRACE_FIELDS` that the request has.
        """
        if not came:
            return self._begin(kept)
        parents = [value for name, value in came if name == TRACEPARENT]
        parent = _read_w3c(parents[0]) if len(parents) == 1 else None
        if parent is not None:
            return self._follow_w3c(parent, came, kept)
        return self._follow_b3(came, kept)

    def _begin(self, kept: Fields) -> Trace | None:
        if self._sampling is None:
            return None
        random = self._random
        sampled = random.random() < self._sampling
        trace = b"%032x" % (random.getrandbits(128) or 1)
        span = b"%016x" % (random.getrandbits(64) or 1)
        kept.append((TRACEPARENT, b"00-%b-%b-%02x" % (trace, span, sampled)))
        if not (sampled and self._exports):
            return None
        return Trace(trace.decode("ascii"), span.decode("ascii"), "", "")

    def _child(self, parent: _Parent, state: bytes) -> Trace:
        span = f"{self._random.getrandbits(64) or 1:016x}"
        trace_id = parent.trace_id.decode("ascii").rjust(32, "0")
        shown = state.decode("latin-1") if len(state) <= _MAX_STATE_BYTES else ""
        return Trace(trace_id, span, parent.span_id.decode("ascii"), shown)

    def _follow_w3c(
        self, parent: _Parent, came: Sequence[tuple[bytes, bytes]], kept: Fields
    ) -> Trace | None:
        states = [item for item in came if item[0] == TRACESTATE]
        if not (parent.sampled and self._exports):
            kept += [item for item in came if item[0] == TRACEPARENT]
            kept += states
            return None
        trace = self._child(parent, b",".join(value for _, value in states))
        kept.append((TRACEPARENT, f"00-{trace.trace_id}-{trace.span_id}-01".encode("ascii")))
        kept += states
        return trace

    def _follow_b3(self, came: Sequence[tuple[bytes, bytes]], kept: Fields) -> Trace | None:
        fields = dict(came)
        if B3 in fields:
            return self._follow_b3_single(fields[B3], kept)
        if _B3_TRACE not in fields:
            return self._follow_b3_decision(fields, kept)
        parent = _read_b3(fields)
        if parent is None:
            return self._begin(kept)
        sampled = self._is_sampled(parent)
        trace = self._child(parent, b"") if sampled and self._exports else None
        kept.append((_B3_TRACE, parent.trace_id))
        kept.append((_B3_SPAN, trace.span_id.encode("ascii") if trace else parent.span_id))
        if fields.get(_B3_FLAGS) == b"1":
            kept.append((_B3_FLAGS, b"1"))
        else:
            kept.append((_B3_SAMPLED, b"1" if sampled else b"0"))
        return trace

    def _follow_b3_decision(self, fields: dict[bytes, bytes], kept: Fields) -> Trace | None:
        """No ids, perhaps a wish (`x-b3-sampled: 0`)."""
        sampled = fields.get(_B3_SAMPLED)
        if sampled in (b"0", b"false"):
            kept.append((_B3_SAMPLED, b"0"))
            return None
        return self._begin(kept)

    def _follow_b3_single(self, value: bytes, kept: Fields) -> Trace | None:
        if value == b"0":
            kept.append((B3, value))
            return None
        match = _B3_SINGLE.fullmatch(value)
        if match is None or not _is_id(match[1]) or not _is_id(match[2]):
            return self._begin(kept)
        flag = match[3]
        parent = _Parent(match[1], match[2], None if flag is None else flag != b"0")
        sampled = self._is_sampled(parent)
        trace = self._child(parent, b"") if sampled and self._exports else None
        span = trace.span_id.encode("ascii") if trace else parent.span_id
        decision = b"d" if flag == b"d" else b"1" if sampled else b"0"
        kept.append((B3, b"%b-%b-%b" % (parent.trace_id, span, decision)))
        return trace

    def _is_sampled(self, parent: _Parent) -> bool:
        if parent.sampled is not None:
            return parent.sampled
        return self._sampling is not None and self._random.random() < self._sampling


def _is_id(text: bytes) -> bool:
    return bool(text.strip(b"0"))


def _read_w3c(value: bytes) -> _Parent | None:
    """Read `traceparent` (W3C Trace Context §3.2); None if it is not to be believed."""
    match = _W3C.fullmatch(value)
    if match is None or match[1] == b"ff" or not _is_id(match[2]) or not _is_id(match[3]):
        return None
    if match[5] is not None and match[1] == b"00":
        return None  # only later versions may have more
    return _Parent(match[2], match[3], bool(int(match[4], 16) & _SAMPLED))


def _read_b3(fields: dict[bytes, bytes]) -> _Parent | None:
    trace, span = fields[_B3_TRACE].lower(), fields.get(_B3_SPAN, b"").lower()
    if not (_HEX_TRACE.fullmatch(trace) and _HEX_SPAN.fullmatch(span)):
        return None
    if not (_is_id(trace) and _is_id(span)):
        return None
    if fields.get(_B3_FLAGS) == b"1":
        return _Parent(trace, span, True)
    return _Parent(trace, span, _B3_DECISION.get(fields.get(_B3_SAMPLED, b"")))


_B3_DECISION = {b"1": True, b"true": True, b"0": False, b"false": False}
