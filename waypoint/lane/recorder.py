"""From the lane's records to access log, taps and spans: in small portions beside the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mesh.http1.message import Headers
from mesh.model.request import RequestFlag, RequestRecord
from mesh.telemetry.trace_context import Trace, TraceStarter
from waypoint.contract import Origin
from waypoint.lane.record import LaneRecord, Wanted, Watch, bounds_of, decode, sent_headers
from waypoint.routing.plan import Forward
from waypoint.telemetry.tap import TapFilter
from waypoint.upstream.target import Target

if TYPE_CHECKING:
    from waypoint.lane.engine import Engine

DELAY_S = 0.05
"""From the first record to reading them."""
PORTION = 64
"""Records that are read in a row: less than a millisecond."""


class Sink(Protocol):
    """Takes what is looked at; see `waypoint.telemetry.records.Records`."""

    def log(self, record: RequestRecord) -> None: ...
    def span(self, trace: Trace, record: RequestRecord) -> None: ...
    def show(self, record: RequestRecord, headers: Headers) -> None: ...
    def lose(self, *, logged: int, tapped: int, traced: int) -> None: ...
    def add_lines(self, text: bytes) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a lane is to observe.

    Attributes:
        traces: who decides about traces in Python, as `watch` says for the lane.
    """

    watch: Watch
    sink: Sink
    traces: TraceStarter | None = None


class Known(Protocol):
    """What the numbers of a record stand for; None: no longer known."""

    def decided(self, entry: int) -> tuple[Forward, Origin] | None: ...
    def origin(self, number: int) -> Origin | None: ...
    def target(self, number: int) -> Target | None: ...
    def address(self, origin: Origin) -> bytes:
        """As in `x-forwarded-for`."""

    def all_read(self) -> None:
        """No record names anything any more."""


_ENDS: Sequence[tuple[RequestFlag, str]] = (
    (RequestFlag.NONE, "via_upstream"),
    (RequestFlag.DOWNSTREAM_CLOSED, "client disconnected"),
    (RequestFlag.UPSTREAM_CLOSED, "http1.cut"),
    (RequestFlag.STREAM_IDLE, "http1.write_timeout"),
)
"""By `enum lane_failure`; as waypoint.exchange says it."""


class Recorder:
    """Reads the records of one engine."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, engine: Engine, sink: Sink, known: Known
    ) -> None:
        self._loop = loop
        self._sink = sink
        self._known = known
        self._watcher = engine.watcher
        self._planned: asyncio.Handle | None = None
        self._is_closed = False

    @property
    def is_waiting(self) -> bool:
        """Whether there are records that were not read."""
        return self._planned is not None

    def recorded(self) -> None:
        """There are records where there were none."""
        if self._planned is None:
            self._planned = self._loop.call_later(DELAY_S, self._read_portion)

    def _read_portion(self) -> None:
        if self._read():
            self._planned = self._loop.call_soon(self._read_portion)
            return
        self._planned = None
        self._known.all_read()

    def _read(self) -> bool:
        lines = self._watcher.take_lines()
        if lines:
            self._sink.add_lines(lines)
        data = self._watcher.take_records(PORTION)
        for found in decode(data):
            self._pass_on(found)
        return bool(data)

    def read_all(self) -> None:
        """Read everything now."""
        if self._is_closed:
            return
        while self._read():
            pass
        self.count_lost()
        self._known.all_read()

    def count_lost(self) -> None:
        """Tell what had no room."""
        logged, tapped, traced = self._watcher.take_lost()
        if logged or tapped or traced:
            self._sink.lose(logged=logged, tapped=tapped, traced=traced)

    def close(self) -> None:
        """Read no more: the engine goes."""
        self._is_closed = True
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None

    def tap(self, taps: Sequence[TapFilter]) -> bool:
        """Replace who watches; False: there are more than the engine knows of."""
        return self._watcher.tap(bounds_of(taps))

    def _pass_on(self, found: LaneRecord) -> None:
        record = self._record(found)
        if record is None:
            return
        if found.wanted & Wanted.LOGGED:
            self._sink.log(record)
            self._watcher.learn_line(found, record)
        if found.trace is not None:
            self._sink.span(found.trace, record)
        if found.wanted & Wanted.TAPPED:
            self._sink.show(record, sent_headers(found.head))

    def _record(self, found: LaneRecord) -> RequestRecord | None:
        decided, target = self._known.decided(found.entry), self._known.target(found.target)
        if decided is None or target is None:
            return None
        plan, first = decided
        origin = self._known.origin(found.origin) or first
        flag, details = _ENDS[found.failure]
        chain, address = found.forwarded_for, self._known.address(origin)
        return RequestRecord(
            src=origin.src,
            dst=target.dst,
            service=origin.service.key if origin.service else "",
            protocol="HTTP/1.1",
            method=found.method.decode("latin-1"),
            path=found.path.decode("latin-1"),
            authority=found.host.decode("latin-1"),
            status=found.status,
            grpc_status=-1,
            flag=flag,
            details=details,
            bytes_received=found.received,
            bytes_sent=found.sent,
            started_at=found.started_at,
            duration_s=found.seconds,
            upstream_s=found.upstream_s,
            upstream_addr=target.key.address,
            client_addr=origin.client,
            dialled_addr=origin.dialled,
            route=plan.route,
            request_id=found.request_id.decode("latin-1"),
            user_agent=found.user_agent.decode("latin-1"),
            forwarded_for=(chain + b", " + address if chain else address).decode("latin-1"),
            tries=1,
            mutual_tls=origin.principal is not None,
        )
