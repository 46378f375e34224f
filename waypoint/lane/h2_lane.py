"""The worker's side of the lane for HTTP/2: says what is decided, and takes back what goes wrong.

`mesh.http2.lane` carries a request from a client's session to a server's if its decision is known
and *steady*; every other stream of the same connections is Python's as ever.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Protocol

from mesh.http1.message import RequestHead
from mesh.http2.contract import Headers as Fields
from mesh.http2.contract import HeadersReceived, LaneRequest, RequestReturned, RequestTold
from mesh.http2.lane import (
    Count,
    LaneLimits,
    NativeLane,
    Tell,
    cut,
    recall,
    silent,
    streams,
)
from mesh.http2.lane import Target as Handle
from mesh.http2.nghttp2 import Nghttp2Session
from mesh.telemetry.request_log import FAILED_CALLS, LogMode
from mesh.telemetry.requests import BUCKETS_MS, RequestGroup
from mesh.telemetry.trace_context import TraceStarter
from waypoint.codec.h2_client import Http2Client
from waypoint.codec.h2_head import read_request, request_fields
from waypoint.codec.h2_link import Http2Link
from waypoint.codec.h2_server import Http2Server, ServerStream
from waypoint.contract import Origin, RequestSink
from waypoint.exchange.exchange import Exchange
from waypoint.exchange.forward_headers import Seen, prepare_request
from waypoint.exchange.open_exchanges import Judge, refuse
from waypoint.exchange.proxy import Proxy
from waypoint.lane.h2_lane_return import FLAGS, Entry, Resumed, failure_of, record_of
from waypoint.lane.h2_lane_rules import is_plain, rules
from waypoint.limits import ProxyLimits
from waypoint.resilience.crowd import HTTP2_LANE
from waypoint.routing.dependence import Dependence
from waypoint.routing.plan import Reply
from waypoint.telemetry.tallied import request_group
from waypoint.upstream.target import Target

MAX_KEY_HEADERS = 4
MAX_CALLERS = 10_000
FRESH_S = 30.0
"""Endpoints that no decision named for so long are forgotten after a change of the world."""
_REQUEST_ID = b"x-request-id"


class Decider(Protocol):
    """Policy and routes of the present snapshot."""

    def depends(self, origin: Origin) -> Dependence | None:
        """None: on more than can be said."""


@dataclass(slots=True)
class _Known:
    handle: Handle
    target: Target
    used_at: float


class Http2Lane:
    """One per worker.

    Args:
        traces: passes contexts on, where no traces are begun or exported.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        limits: ProxyLimits,
        decider: Decider,
        proxy: Proxy,
        random: Random,
        traces: TraceStarter | None = None,
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._decider = decider
        self._proxy = proxy
        self._random = random
        self._traces = traces
        self._native = NativeLane(
            LaneLimits(
                fields=limits.message.fields,
                replay_bytes=limits.replay_bytes,
                high_water_bytes=limits.high_water_bytes,
                target_requests=limits.upstream_requests,
                requests=max(1, limits.worker_requests // 2),
                max_streams=limits.max_streams,
            ),
            rules(moves_contexts=traces is not None),
            BUCKETS_MS,
        )
        self._native.join(proxy.crowd.cells, HTTP2_LANE)
        self._links: dict[int, Http2Link] = {}
        self._numbers: dict[Http2Link, int] = {}
        self._entries: dict[int, Entry] = {}
        self._callers: dict[object, object] = {}
        self._known: dict[Target, _Known] = {}
        self._by_id: dict[int, Target] = {}
        self._refusals: dict[tuple[Http2Link, int], Reply] = {}
        self._silent: set[tuple[Http2Link, int]] = set()
        self._last_id = 0
        self._scheduled = False

    # --- connections ----------------------------------------------------------------------------

    def enter(self, link: Http2Link, target: Target | None = None) -> None:
        """Let a client's connection in, or with its target a server's."""
        number = self._new_id()
        handle = None if target is None else self._handle(target)
        self._native.enter(_session(link), number, handle)
        self._links[number] = link
        self._numbers[link] = number
        link.lane = self
        if isinstance(link, Http2Server):
            self._native.caller_is(_session(link), self._caller(link.origin))

    def retire(self, link: Http2Client) -> None:
        """Give a server's connection no new requests."""
        self._native.retire(_session(link))

    def reserve(self, target: Target, wanted: bool) -> None:
        """Leave an endpoint's streams to those who wait for one, or no longer."""
        known = self._known.get(target)
        if known is not None:
            known.handle.reserve(wanted)

    def leave(self, link: Http2Link) -> None:
        """A connection is lost."""
        self._native.leave(_session(link))
        for event in link.session.take_output()[1]:
            if isinstance(event, RequestTold):
                link.handle(event)
        for kept in [key for key in self._refusals if key[0] is link]:
            del self._refusals[kept]
        self._silent = {key for key in self._silent if key[0] is not link}
        number = self._numbers.pop(link, None)
        if number is not None:
            del self._links[number]
        self.flush_soon()

    def cut_stream(self, link: Http2Server, stream: int) -> bool:
        """End a request whose client takes nothing of its answer; False: it is none of ours."""
        return cut(_session(link), stream)

    def cut_streams(self, link: Http2Server) -> None:
        """The same of all requests of a client."""
        for stream, _ in streams(_session(link)):
            cut(_session(link), stream)

    def recall_silent(self, link: Http2Server, now: float, limit_s: float) -> None:
        """Have requests back that their client does not go on with, to be refused."""
        for stream in silent(_session(link), now, limit_s):
            self._silent.add((link, stream))
            recall(_session(link), stream)
            self.flush_soon()

    def flush_soon(self) -> None:
        """Send what sessions have, at the end of this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def flushed(self, link: Http2Link) -> None:
        """A connection's output was taken, which may have given credit to others."""
        if _session(link).touched:
            self.flush_soon()

    def _flush(self) -> None:
        links = self._links
        try:
            while numbers := self._native.touched():
                for number in numbers:
                    link = links.get(number)
                    if link is not None:
                        link.flush_now()
                        link.after_lane()
        finally:
            self._scheduled = False

    # --- decisions ------------------------------------------------------------------------------

    def learn(self, link: Http2Server, event: HeadersReceived, exchange: RequestSink) -> None:
        """Remember what was decided of a request, if it is steady and plain."""
        origin, session = link.origin, _session(link)
        self._native.caller_is(session, self._caller(origin))
        if not isinstance(exchange, Exchange) or exchange.tries is None:
            return
        plan = exchange.tries.plan
        if not is_plain(plan, exchange):
            return
        # What would go out must be what goes out without the lane, whatever edits heads.
        found = self._native.render(session, event.headers, end_stream=event.end_stream)
        sent_id = exchange.seen.request_id
        sent = [(n, sent_id if n == _REQUEST_ID else v) for n, v in found]
        if sent != request_fields(exchange.head):
            return
        number = self._new_id()
        handles = [self._handle(target) for target in plan.group.targets]
        if self._native.learn(session, event.headers, number, handles, end_stream=event.end_stream):
            self._entries[number] = Entry(plan, origin)

    def _caller(self, origin: Origin) -> object | None:
        depends = self._decider.depends(origin)
        if depends is None or len(depends.headers) > MAX_KEY_HEADERS:
            return None
        if _REQUEST_ID.decode("ascii") in depends.headers:
            return None  # it may be chosen anew for each
        fields = self._proxy.fields_of(origin)
        # An address may have changed hands since an older connection was opened.
        service = origin.service.key if origin.service is not None else None
        workload = origin.workload.uid if origin.workload is not None else None
        about = (origin.principal, origin.dialled, service, workload, origin.src, depends)
        key = (fields.address, tuple(fields.identity), *about)
        found = self._callers.get(key)
        if found is None:
            if len(self._callers) >= MAX_CALLERS:
                self.forget()
            names = [name.encode("latin-1") for name in sorted(depends.headers)]
            identity = fields.identity[0][1] if fields.identity else b""
            found = self._native.caller(fields.address, identity, names, key_query=depends.query)
            self._callers[key] = found
        return found

    # --- what comes back ------------------------------------------------------------------------

    def resume(self, link: Http2Server, stream: ServerStream, event: RequestReturned) -> None:
        """Go on with a request, whose first try has failed or is over by policy."""
        request = event.request
        entry, target = self._entries[request.entry], self._by_id[request.target]
        refusal = self._refusals.pop((link, stream.id), None)
        head, seen = self._read(link.origin, request)
        exchange = Resumed(self._proxy, stream, head, link.origin)
        exchange.seen = seen
        stream.exchange = exchange
        self._proxy.active += 1
        self._proxy.under_way.add(exchange)
        exchange.resume(entry, target, event)
        if refusal is not None:
            refuse(exchange, refusal)
        elif (link, stream.id) in self._silent:
            self._silent.discard((link, stream.id))
            link.time_out(stream)
        else:
            exchange.upstream_failed(failure_of(request))

    def told(self, link: Http2Server, request: LaneRequest) -> None:
        """Count and log a request that has ended."""
        entry, target = self._entries[request.entry], self._by_id[request.target]
        origin = link.origin
        head, seen = self._read(origin, request)
        record = record_of(head, seen, origin, entry, target, request)
        self._proxy.tell(record, head.headers)

    def _read(self, origin: Origin, request: LaneRequest) -> tuple[RequestHead, Seen]:
        """A head as the exchange has it; what the lane took can be read."""
        nothing = request.is_over and not request.received_bytes
        fields = [item for item in request.headers if item[0] != _REQUEST_ID]
        fields.append((_REQUEST_ID, request.request_id))
        head = read_request(fields, nothing, self._limits.message.fields + 1)
        seen = prepare_request(head, self._proxy.fields_of(origin), self._random, self._traces)
        return head, seen

    def judge_again(self, judge: Judge) -> int:
        """Policy has changed: end what it does not allow any more. Says how many were ended."""
        ended = 0
        for link in list(self._links.values()):
            if isinstance(link, Http2Server):
                for stream, headers in streams(_session(link)):
                    ended += self._judge_again(judge, link, stream, headers)
        if ended:
            self.flush_soon()
        return ended

    def _judge_again(self, judge: Judge, link: Http2Server, stream: int, headers: Fields) -> bool:
        head = read_request(headers, False, self._limits.message.fields)
        prepare_request(head, self._proxy.fields_of(link.origin), self._random, self._traces)
        refusal = judge.judge_again(link.origin, head, None)
        if refusal is None:
            return False
        self._refusals[link, stream] = refusal
        recall(_session(link), stream)
        return True

    # --- what the worker asks -------------------------------------------------------------------

    @property
    def taken(self) -> int:
        """Requests that were not Python's."""
        return self._native.taken

    @property
    def known_bytes(self) -> int:
        """What is remembered of decisions."""
        return self._native.known_bytes

    def links(self) -> list[Http2Link]:
        """Connections that are in."""
        return list(self._links.values())

    def targets(self) -> list[Target]:
        """Endpoints that the lane knows."""
        return list(self._known)

    def load(self, target: Target) -> int:
        """Requests under way to an endpoint."""
        known = self._known.get(target)
        return known.handle.active if known is not None else 0

    def watch(self, mode: LogMode, *, tapped: bool) -> None:
        """Say which requests are looked at."""
        what = Tell.NONE if mode is LogMode.OFF else Tell.FAILURES
        self._native.tell(Tell.ALL if tapped or mode.has_all else what, FAILED_CALLS)

    def cut(self) -> None:
        """Give up what clients have under way; `take` has what that ended."""
        for link in list(self._links.values()):
            if isinstance(link, Http2Server):
                self.leave(link)

    def forget(self) -> None:
        """Snapshot or policies have changed: decide anew about everything."""
        self._native.forget()
        self._callers.clear()

    def tick(self) -> None:
        """Drop endpoints that nothing refers to; call it about once a second, after `take()`."""
        oldest = self._loop.time() - FRESH_S
        for target, known in list(self._known.items()):
            if known.used_at < oldest and known.handle.drop():
                target.elsewhere.remove(known.handle)
                del self._known[target]
                del self._by_id[known.handle.number]

    def take(self) -> list[RequestGroup]:
        """What ended since the last call."""
        groups = [self._group(count) for count in self._native.take()]
        for number in self._native.gone():
            del self._entries[number]
        return groups

    def _group(self, count: Count) -> RequestGroup:
        entry = self._entries[count.entry]
        return request_group(
            count,
            entry.origin,
            self._by_id[count.target].dst,
            protocol=ServerStream.protocol,
            flag=FLAGS[count.end],
            route=entry.plan.route,
            grpc_status=count.grpc_status,
        )

    # --- numbers --------------------------------------------------------------------------------

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _handle(self, target: Target) -> Handle:
        known = self._known.get(target)
        if known is None:
            number = self._new_id()
            handle = Handle(self._native, number)
            handle.tell(target.active)
            target.elsewhere.append(handle)
            known = _Known(handle, target, 0.0)
            self._known[target] = known
            self._by_id[number] = target
        known.used_at = self._loop.time()
        return known.handle


def _session(link: Http2Link) -> Nghttp2Session:
    session = link.session
    assert isinstance(session, Nghttp2Session)
    return session
