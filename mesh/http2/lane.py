"""The lane of the compiled engine as objects; `shim.h` says what it does.

Requests whose decision is known go from a client's session to a server's without Python. Whoever
lets sessions in flushes those of `touched()` whenever a call of one says `touched`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from mesh.http2._nghttp2 import ffi, lib
from mesh.http2.contract import Headers
from mesh.http2.nghttp2 import Nghttp2Session, pack_headers, unpack_headers

_ROOM = 64
_RENDERED = 1 << 17


class Reason(IntEnum):
    """Why a request comes back."""

    REFUSED = int(lib.MN_REFUSED)
    """Never looked at."""
    CLOSED_REUSED = int(lib.MN_CLOSED_REUSED)
    """By a connection that has answered others."""
    CLOSED = int(lib.MN_CLOSED)
    RESET = int(lib.MN_RESET)
    UNUSUAL = int(lib.MN_UNUSUAL)
    """The answer's head is against the protocol."""
    RECALLED = int(lib.MN_RECALLED)


class End(IntEnum):
    """How a request ended."""

    FINE = int(lib.MN_FINE)
    CLIENT_GONE = int(lib.MN_CLIENT_GONE)
    SERVER_CUT = int(lib.MN_SERVER_CUT)
    """In the midst of an answer."""
    SERVER_WRONG = int(lib.MN_SERVER_WRONG)
    """The same, by a fault against the protocol."""
    CLIENT_STUCK = int(lib.MN_CLIENT_STUCK)
    """It takes nothing of its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """Bounds; what is above them is Python's.

    Attributes:
        fields: of one head.
        replay_bytes: of a request's body kept until its answer begins.
        high_water_bytes: queued towards a peer before its source gets no more credit.
        target_requests: at once to one endpoint.
        requests: at once altogether, with those of others (`join`).
        max_streams: of one connection to a server.
    """

    fields: int
    replay_bytes: int
    high_water_bytes: int
    target_requests: int
    requests: int
    max_streams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRules:
    """Names of fields of requests that are not just passed on, in lower case.

    Attributes:
        claims: left out.
        head_only: left out of trailers.
        unusual: a request with one of them is Python's; left out of trailers too.
        trace_parent, trace_state: of contexts that go on as they are (W3C Trace Context), behind
            the others; left out of trailers. Empty: there is no such field.
    """

    claims: Iterable[bytes]
    head_only: Iterable[bytes]
    unusual: Iterable[bytes]
    trace_parent: Iterable[bytes] = ()
    trace_state: Iterable[bytes] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Requests of one decision that ended alike."""

    entry: int
    target: int
    status: int
    grpc_status: int
    end: End
    count: int
    received: int
    sent: int
    seconds: float
    buckets: list[int]
    received_buckets: list[int]
    sent_buckets: list[int]


class _One(Protocol):
    """`mn_count`."""

    entry: int
    target: int
    status: int
    grpc_status: int
    failure: int
    count: int
    received: int
    sent: int
    seconds: float
    buckets: Iterable[int]
    received_buckets: Iterable[int]
    sent_buckets: Iterable[int]


class Tell(IntEnum):
    """Which ends are told as `RequestTold` instead of being counted."""

    NONE = int(lib.MN_TELL_NONE)
    FAILURES = int(lib.MN_TELL_FAILURES)
    """No proper end, 5xx, and some statuses of gRPC."""
    ALL = int(lib.MN_TELL_ALL)


class Target:
    """An endpoint of a lane."""

    __slots__ = ("number", "raw")

    def __init__(self, lane: NativeLane, number: int) -> None:
        self.number = number
        self.raw = lib.mn_lane_target(lane.raw, number)
        if self.raw == ffi.NULL:
            raise MemoryError

    @property
    def active(self) -> int:
        return int(lib.mn_target_active(self.raw))

    def tell(self, active: int) -> None:
        """How many requests to it are others'."""
        lib.mn_target_tell(self.raw, active)

    def reserve(self, wanted: bool) -> None:
        """Take no streams of it, or again."""
        lib.mn_target_reserve(self.raw, wanted)

    def drop(self) -> bool:
        """Free it, if nothing refers to it; nothing of it may be used after."""
        return bool(lib.mn_target_drop(self.raw) == 0)


class NativeLane:
    """One per event loop."""

    def __init__(self, limits: LaneLimits, rules: FieldRules, buckets_ms: Sequence[float]) -> None:
        numbers = {name: getattr(limits, name) for name in LaneLimits.__slots__}
        bounds = list(buckets_ms)
        raw = lib.mn_lane_new(ffi.new("mn_lane_limits *", numbers), bounds, len(bounds))
        if raw == ffi.NULL:
            raise MemoryError
        self.raw = ffi.gc(raw, lib.mn_lane_free)
        self._buckets = len(bounds) + 1
        self._crowd: object = None
        self._counts = ffi.new("mn_count[]", _ROOM)
        self._numbers = ffi.new("uint64_t[]", _ROOM)
        self._rendered = ffi.new("char[]", _RENDERED)
        kinds = (
            (rules.claims, lib.MN_FIELD_CLAIM),
            (rules.head_only, lib.MN_FIELD_HEAD_ONLY),
            (rules.unusual, lib.MN_FIELD_UNUSUAL),
            (rules.trace_parent, lib.MN_FIELD_PARENT),
            (rules.trace_state, lib.MN_FIELD_STATE),
        )
        for names, kind in kinds:
            for name in names:
                if lib.mn_lane_field(self.raw, name, len(name), kind):
                    raise ValueError(f"no rule for a field {name!r} can be kept")

    @property
    def taken(self) -> int:
        """Requests that were not Python's."""
        return int(lib.mn_lane_taken(self.raw))

    @property
    def known_bytes(self) -> int:
        """What is remembered of decisions."""
        return int(lib.mn_lane_known_bytes(self.raw))

    def join(self, crowd: array[int], own: int) -> None:
        """Count requests under way in a cell of these; the limit is of their sum."""
        self._crowd = ffi.from_buffer("uint32_t[]", crowd, require_writable=True)
        lib.mn_lane_join(self.raw, self._crowd, len(crowd), own)

    def tell(self, what: Tell, failed_calls: Iterable[int]) -> None:
        """Say which ends are told from now on; `failed_calls` are statuses of gRPC below 32."""
        mask = sum(1 << status for status in set(failed_calls))
        lib.mn_lane_tell(self.raw, what, mask)

    def forget(self) -> None:
        """Drop callers and decisions; requests under way go on."""
        lib.mn_lane_forget(self.raw)

    def caller(
        self, address: bytes, identity: bytes, key_fields: Iterable[bytes], *, key_query: bool
    ) -> object:
        """A new caller, until `forget()`. Raises `ValueError` for too many fields."""
        found = lib.mn_lane_caller(self.raw, address, len(address), identity, len(identity))
        if found == ffi.NULL:
            raise MemoryError
        for name in key_fields:
            if lib.mn_caller_key_field(found, name, len(name)):
                raise ValueError("too many fields decide")
        if key_query:
            lib.mn_caller_key_query(found)
        return found

    def enter(self, session: Nghttp2Session, number: int, target: Target | None = None) -> None:
        """Let a client's session in, or with its target a server's."""
        handle = ffi.NULL if target is None else target.raw
        lib.mn_lane_enter(self.raw, session.raw, number, handle)

    def caller_is(self, session: Nghttp2Session, caller: object | None) -> None:
        """Say whose requests a session brings, until `forget()`; None: no one's that are taken."""
        lib.mn_lane_caller_is(session.raw, ffi.NULL if caller is None else caller)

    def retire(self, session: Nghttp2Session) -> None:
        """Give a server's session no new requests."""
        lib.mn_lane_retire(session.raw)

    def leave(self, session: Nghttp2Session) -> None:
        """The connection is lost."""
        lib.mn_lane_leave(session.raw)

    def render(self, session: Nghttp2Session, headers: Headers, *, end_stream: bool) -> Headers:
        """What would be sent for a request; empty: it is not plain."""
        text = pack_headers(headers) + b"\0"
        used = lib.mn_lane_render(
            session.raw, text, len(text), end_stream, self._rendered, _RENDERED
        )
        return unpack_headers(ffi.buffer(self._rendered, used)[:])

    def learn(
        self,
        session: Nghttp2Session,
        headers: Headers,
        entry: int,
        targets: Sequence[Target],
        *,
        end_stream: bool,
    ) -> bool:
        """Take requests like this one from now on; False: it is not plain, or known."""
        text = pack_headers(headers) + b"\0"
        handles = ffi.new("mn_target *[]", [target.raw for target in targets])
        failed = lib.mn_lane_learn(
            session.raw, text, len(text), end_stream, entry, handles, len(targets)
        )
        return not failed

    def touched(self) -> list[int]:
        """Numbers of sessions that may have output now; empty at the end."""
        count = lib.mn_lane_touched(self.raw, self._numbers, _ROOM)
        return list(ffi.unpack(self._numbers, count)) if count else []

    def take(self) -> list[Count]:
        """What ended since the last call."""
        found: list[Count] = []
        while count := lib.mn_lane_take(self.raw, self._counts, _ROOM):
            found += [self._count(self._counts[index]) for index in range(count)]
        return found

    def gone(self) -> list[int]:
        """Entries for which nothing more is counted, once each; call it after `take()`."""
        found: list[int] = []
        while count := lib.mn_lane_gone(self.raw, self._numbers, _ROOM):
            found += ffi.unpack(self._numbers, count)
        return found

    def _count(self, one: _One) -> Count:
        return Count(
            entry=one.entry,
            target=one.target,
            status=one.status,
            grpc_status=one.grpc_status,
            end=End(one.failure),
            count=one.count,
            received=one.received,
            sent=one.sent,
            seconds=one.seconds,
            buckets=list(one.buckets)[: self._buckets],
            received_buckets=list(one.received_buckets)[: self._buckets],
            sent_buckets=list(one.sent_buckets)[: self._buckets],
        )


def streams(session: Nghttp2Session) -> list[tuple[int, Headers]]:
    """Streams that a lane has of a client's session, with their heads as they came."""
    room = max(1, session.open_streams)
    ids, length = ffi.new("int32_t[]", room), ffi.new("size_t *")
    found: list[tuple[int, Headers]] = []
    for stream in ffi.unpack(ids, lib.mn_lane_streams(session.raw, ids, room)):
        head = lib.mn_lane_head(session.raw, stream, length)
        if head != ffi.NULL:
            found.append((stream, unpack_headers(ffi.buffer(head, length[0])[:])))
    return found


def recall(session: Nghttp2Session, stream: int) -> None:
    """Have a request back from the lane, wherever it stands: a `RequestReturned` follows."""
    lib.mn_lane_recall(session.raw, stream)


def silent(session: Nghttp2Session, now: float, limit_s: float) -> list[int]:
    """Streams that a lane has of a client's session and whose request stands still for so long; as
    `Nghttp2Session.stuck`. Those of gRPC and those that are being answered may."""
    room = max(1, session.open_streams)
    ids = ffi.new("int32_t[]", room)
    return list(ffi.unpack(ids, lib.mn_lane_silent(session.raw, now, limit_s, ids, room)))


def cut(session: Nghttp2Session, stream: int) -> bool:
    """End a request whose client takes nothing of its answer; False: no lane has it."""
    return bool(lib.mn_lane_cut(session.raw, stream))
