"""The worker's side of the lane: decides for it, dials for it, and takes what is not plain."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol

from mesh.errors import LocalProtocolError, MeshnodeError
from mesh.http1.head import parse_request_head
from mesh.http1.message import MessageError, RequestHead
from mesh.http1.writer import format_request
from mesh.telemetry.requests import RequestGroup
from waypoint.contract import Origin
from waypoint.exchange.forward_headers import CallerFields, prepare_request
from waypoint.exchange.open_exchanges import Judge
from waypoint.lane.adopt import Adopted, Adopter
from waypoint.lane.recorder import Observation, Recorder
from waypoint.limits import ProxyLimits
from waypoint.resilience.crowd import Crowd
from waypoint.routing.dependence import Dependence
from waypoint.routing.plan import Forward, Reply, Wait
from waypoint.telemetry.tallied import request_group
from waypoint.telemetry.tap import TapFilter
from waypoint.upstream.target import Speaks, Target

if TYPE_CHECKING:
    from waypoint.lane.engine import Count, Engine
    from waypoint.lane.engine import Target as Handle

log = logging.getLogger(__name__)
MAX_KEY_HEADERS = 4
MAX_LEFT = 10_000
"""Connections and decisions that are gone and that records may name."""
FRESH_S = 30.0
"""Endpoints that no decision named for so long are forgotten after a change of the world."""


class Decider(Protocol):
    """Policy and routes of the present snapshot."""

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply | Wait: ...
    def depends(self, origin: Origin) -> Dependence | None:
        """None: on more than can be said."""


class Opener(Protocol):
    async def open_socket(self, target: Target) -> socket.socket: ...


class Fallback(Protocol):
    """Serves connections without the lane."""

    async def serve_http1(self, sock: socket.socket, origin: Origin, initial: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    plan: Forward
    origin: Origin


@dataclass(slots=True)
class _Known:
    handle: Handle
    target: Target
    used_at: float


class Lane:
    """One per worker. Requests that are not plain are served as if it did not exist."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        limits: ProxyLimits,
        decider: Decider,
        caller_fields: Callable[[Origin], CallerFields],
        opener: Opener,
        fallback: Fallback,
        adopter: Adopter,
        spawn: Callable[[Coroutine[None, None, None]], None],
        random: Random,
        observation: Observation,
        new_engine: Callable[[Lane], Engine],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._decider = decider
        self._caller_fields = caller_fields
        self._opener = opener
        self._fallback = fallback
        self._adopter = adopter
        self._spawn = spawn
        self._random = random
        self._origins: dict[int, Origin] = {}
        self._entries: dict[int, _Entry] = {}
        self._known: dict[Target, _Known] = {}
        self._by_id: dict[int, Target] = {}
        self._last_id = 0
        self._refusals: dict[int, Reply] = {}
        self._engine = engine = new_engine(self)
        self._traces = observation.traces
        engine.watcher.watch(observation.watch)
        self._recorder = Recorder(loop, engine, observation.sink, self)
        self._left_origins: list[int] = []
        self._left_entries: list[int] = []
        loop.add_reader(self._engine.descriptor, self._engine.poll)

    # --- what the worker asks -------------------------------------------------------------------

    def serve(self, sock: socket.socket, origin: Origin, initial: bytes) -> None:
        """Take a client's connection, and what was read of it."""
        number = self._new_id()
        self._origins[number] = origin
        try:
            self._engine.serve(sock, number, initial)
        except OSError:
            del self._origins[number]
            raise

    @property
    def clients(self) -> int:
        return self._engine.clients

    def join(self, crowd: Crowd) -> None:
        """Count requests under way there: all of a worker have one limit."""
        self._engine.join(crowd)

    @property
    def taken(self) -> int:
        """Requests that were not Python's."""
        return self._engine.taken

    def load(self, target: Target) -> tuple[int, int]:
        """Requests under way to an endpoint, and idle connections to it."""
        known = self._known.get(target)
        return (known.handle.active, known.handle.idle) if known is not None else (0, 0)

    def forget(self) -> None:
        """Snapshot or policies have changed: ask anew about everything."""
        self._engine.forget()

    def judge_again(self, judge: Judge) -> int:
        """Policy has changed: end what it does not allow any more. Says how many were ended."""
        ended = 0
        for found in self._engine.under_way():
            origin = self._origins[found.origin]
            head = parse_request_head(found.head.removesuffix(b"\r\n\r\n"), self._limits.message)
            prepare_request(head, self._caller_fields(origin), self._random)
            refusal = judge.judge_again(origin, head, None)
            if refusal is None:
                continue
            ended += 1
            plan, target = self._entries[found.entry].plan, self._by_id[found.target]
            if not found.status:
                self._refusals[found.origin] = refusal
            self._engine.take_back(found.origin)
            if found.status:
                self._adopter.end(origin, plan, target, found, refusal)
        return ended

    def tick(self) -> None:
        """Close what is idle; call it about once a second."""
        self._engine.tick()
        if len(self._left_origins) + len(self._left_entries) > MAX_LEFT:
            self._recorder.read_all()
        oldest = self._loop.time() - FRESH_S
        for target, known in list(self._known.items()):
            if known.used_at < oldest and not known.handle.in_use:
                del self._known[target]
                del self._by_id[known.handle.number]
                target.elsewhere.remove(known.handle)
                known.handle.drop()

    def take(self) -> list[RequestGroup]:
        """What ended since the last call."""
        return [self._group(count) for count in self._engine.take()]

    def _group(self, count: Count) -> RequestGroup:
        entry = self._entries[count.entry]
        return request_group(
            count,
            entry.origin,
            self._by_id[count.target].dst,
            protocol="HTTP/1.1",
            flag=count.flag,
            route=entry.plan.route,
        )

    def pause(self, paused: bool) -> None:
        """Give every request to Python from now on, or no longer: each is looked at."""
        self._engine.pause(paused)

    def tap(self, taps: Sequence[TapFilter]) -> None:
        """Show requests to those who watch now; more of them than the engine knows of are
        served without the lane."""
        self.pause(not self._recorder.tap(taps))

    def read_records(self) -> None:
        """Pass on now what is known of requests that ended."""
        self._recorder.read_all()

    def allow_lines(self, lines: int) -> int:
        """How many requests may be logged from now on; what was left before."""
        self._recorder.count_lost()
        return self._engine.watcher.allow_lines(lines)

    def drain(self) -> None:
        """Close every connection after what it is doing."""
        self._engine.drain()

    def cut(self) -> None:
        """Close every connection now; `take` has what that ended."""
        self._engine.cut()
        self._recorder.read_all()

    def close(self) -> None:
        self.cut()
        self._recorder.close()
        self._loop.remove_reader(self._engine.descriptor)
        for target, known in self._known.items():
            target.elsewhere.remove(known.handle)
        self._engine.close()

    # --- what the engine asks -------------------------------------------------------------------

    def caller(self, number: int) -> object:
        """The engine's caller for an origin, or its null: serve it without the lane."""
        origin = self._origins[number]
        depends = self._decider.depends(origin)
        if depends is None or len(depends.headers) > MAX_KEY_HEADERS:
            return self._engine.nobody
        fields = self._caller_fields(origin)
        # An address may have changed hands since an older connection was opened.
        service = origin.service.key if origin.service is not None else None
        workload = origin.workload.uid if origin.workload is not None else None
        about = (origin.principal, origin.dialled, service, workload, origin.src, depends)
        key = (fields.address, tuple(fields.identity), *about)
        names = [name.encode("latin-1") for name in sorted(depends.headers)]
        return self._engine.caller(key, fields, names, depends.query)

    def decide(self, number: int, request: bytes, sent: bytes) -> tuple[int, list[Handle]] | None:
        """Judge a request that is new; None: it is not plain."""
        origin = self._origins[number]
        plan = self._plain_plan(origin, request, sent)
        if plan is None or not plan.group.targets:
            return None
        entry = self._new_id()
        self._entries[entry] = _Entry(plan, origin)
        return entry, [self._handle(target) for target in plan.group.targets]

    def _plain_plan(self, origin: Origin, request: bytes, sent: bytes) -> Forward | None:
        block, _, body = request.partition(b"\r\n\r\n")
        try:
            head = parse_request_head(block, self._limits.message)
        except MessageError:
            return None
        seen = prepare_request(head, self._caller_fields(origin), self._random, self._traces)
        plan = self._decider.plan(origin, head)
        if not isinstance(plan, Forward) or seen.is_grpc:
            return None
        group = plan.group
        same = Forward(group=group, route=plan.route, retry=plan.retry, steady=True)
        if plan != same or group.speaks is Speaks.HTTP2 or not _retries_only_failures(plan):
            return None
        # What would go out must be what goes out without the lane, whatever edits heads.
        made_up = {name: _value_of(name, sent) for name in (b"x-request-id", b"traceparent")}
        headers = [(name, made_up.get(name, value)) for name, value in head.headers]
        try:
            wanted = format_request(
                head.method, head.target, head.host, headers, head.framing, head.length
            )
        except LocalProtocolError:
            return None
        return plan if wanted + body == sent else None

    def dial(self, number: int) -> None:
        target = self._by_id[number]
        self._spawn(self._dial(target, self._known[target].handle))

    async def _dial(self, target: Target, handle: Handle) -> None:
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                sock = await self._opener.open_socket(target)
        except (MeshnodeError, OSError, TimeoutError) as error:
            log.info("%s: %s", target.key.address, error or "no connection in time")
        finally:
            handle.connected(sock)

    def hand_over(self, number: int, sock: socket.socket, data: bytes) -> None:
        origin = self._leave(number)
        self._spawn(self._fallback.serve_http1(sock, origin, data))

    def adopt(self, number: int, entry: int, target: int, found: Adopted) -> None:
        origin = self._leave(number)
        plan, refusal = self._entries[entry].plan, self._refusals.pop(number, None)
        self._spawn(self._adopter.adopt(origin, plan, self._by_id[target], found, refusal))

    def closed(self, number: int) -> None:
        self._leave(number)

    def gone(self, entry: int) -> None:
        if self._recorder.is_waiting:
            self._left_entries.append(entry)
        else:
            del self._entries[entry]

    def recorded(self) -> None:
        self._recorder.recorded()

    def _leave(self, number: int) -> Origin:
        """The connection is no longer the lane's; records may still name it."""
        if self._recorder.is_waiting:
            self._left_origins.append(number)
            return self._origins[number]
        return self._origins.pop(number)

    # --- what the recorder asks -----------------------------------------------------------------

    def decided(self, entry: int) -> tuple[Forward, Origin] | None:
        found = self._entries.get(entry)
        return None if found is None else (found.plan, found.origin)

    def origin(self, number: int) -> Origin | None:
        return self._origins.get(number)

    def target(self, number: int) -> Target | None:
        return self._by_id.get(number)

    def address(self, origin: Origin) -> bytes:
        return self._caller_fields(origin).address

    def all_read(self) -> None:
        for number in self._left_origins:
            del self._origins[number]
        for entry in self._left_entries:
            del self._entries[entry]
        self._left_origins, self._left_entries = [], []

    # --- numbers --------------------------------------------------------------------------------

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _handle(self, target: Target) -> Handle:
        known = self._known.get(target)
        if known is None:
            number = self._new_id()
            known = _Known(self._engine.target(number), target, 0.0)
            self._known[target] = known
            self._by_id[number] = target
            target.elsewhere.append(known.handle)
            known.handle.tell(target.active)
        known.used_at = self._loop.time()
        return known.handle


def _value_of(name: bytes, head: bytes) -> bytes:
    _, _, rest = head.partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0]


def _retries_only_failures(plan: Forward) -> bool:
    rule = plan.retry
    return not rule.codes and not rule.grpc_codes
