"""What the lane tells of requests that ended, as values. Pure; `lane.h` says how it is laid out."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntFlag, auto

from mesh.http1.message import Headers
from mesh.telemetry.trace_context import Trace
from waypoint.telemetry.tap import TapFilter

_FIXED = struct.Struct("=5Q3d4I10I")
_STRINGS = 9
_MOST = (1 << 32) - 1


class Log(Enum):
    """Which requests leave records for the access log."""

    NONE = auto()
    ERRORS = auto()
    """Without a proper end, or answered with 5xx."""
    ALL = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What is looked at besides the counts.

    Attributes:
        log_share: of the requests that did not fail, where all are logged.
        traces: contexts of traces are followed; else requests that have one are Python's.
        sampling: of new traces, None: none begins; exports: spans go somewhere.
    """

    log: Log = Log.NONE
    log_share: float = 1.0
    log_json: bool = False
    traces: bool = False
    sampling: float | None = None
    exports: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TapBounds:
    """What of a tap's filter the lane knows of: it may let more pass, never less."""

    method: bytes
    path: bytes
    status_from: int
    status_to: int


def bounds_of(taps: Sequence[TapFilter]) -> list[TapBounds]:
    """The taps that may want to see a request of the lane, which are never denied."""
    return [
        TapBounds(
            method=tap.method.encode("latin-1", "replace").partition(b"\0")[0],
            path=tap.path.encode("latin-1", "replace").partition(b"\0")[0],
            status_from=_status(tap.status, "0", 0),
            status_to=_status(tap.status, "9", _MOST),
        )
        for tap in taps
        if not tap.denied
    ]


def _status(text: str, digit: str, default: int) -> int:
    return int(text.replace("x", digit)) if text else default


class Wanted(IntFlag):
    """Who wants a record; `enum lane_wanted`."""

    LOGGED = 1
    TAPPED = 2
    TRACED = 4


@dataclass(slots=True, frozen=True, kw_only=True)
class LaneRecord:
    """One request; `struct lane_record`.

    Attributes:
        upstream_s: until the answer began, None if it never did.
        forwarded_for: as the client sent it.
        trace: the span to be made, if one is.
        head: as it was sent on; only for taps.
    """

    entry: int
    target: int
    origin: int
    received: int
    sent: int
    started_at: float
    seconds: float
    upstream_s: float | None
    status: int
    failure: int
    wanted: int
    method: bytes
    path: bytes
    host: bytes
    request_id: bytes
    user_agent: bytes
    forwarded_for: bytes
    trace: Trace | None
    head: bytes


def decode(data: bytes) -> Iterator[LaneRecord]:
    """The records of what the engine gave."""
    at = 0
    while at < len(data):
        fixed = _FIXED.unpack_from(data, at)
        (entry, target, origin, received, sent, started_at, seconds, answered) = fixed[:8]
        status, failure, wanted, size = fixed[8:12]
        place = at + _FIXED.size
        strings: list[bytes] = []
        for length in fixed[12 : 12 + _STRINGS]:
            strings.append(data[place : place + length])
            place += length
        method, path, host, request_id, user_agent, forwarded_for, trace, state, head = strings
        yield LaneRecord(
            entry=entry,
            target=target,
            origin=origin,
            received=received,
            sent=sent,
            started_at=started_at,
            seconds=seconds,
            upstream_s=None if answered < 0 else answered,
            status=status,
            failure=failure,
            wanted=wanted,
            method=method,
            path=path,
            host=host,
            request_id=request_id,
            user_agent=user_agent,
            forwarded_for=forwarded_for,
            trace=_trace(trace.decode("ascii"), state) if trace else None,
            head=head,
        )
        at += size


def _trace(ids: str, state: bytes) -> Trace:
    return Trace(ids[:32], ids[32:48], ids[48:], state.decode("latin-1"))


def sent_headers(head: bytes) -> Headers:
    """The fields of a head as an exchange has them: without those of host and length."""
    fields: Headers = []
    for line in head.split(b"\r\n")[2:]:  # behind request line and host
        name, colon, value = line.partition(b": ")
        if colon and name != b"content-length":
            fields.append((name, value))
    return fields
