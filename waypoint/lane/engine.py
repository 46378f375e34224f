"""The C part as objects; `lane.h` says what it does."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from mesh.model.request import RequestFlag
from waypoint.exchange.forward_headers import CallerFields
from waypoint.lane import _lane  # type: ignore[attr-defined] # compiled
from waypoint.lane.adopt import Adopted, UnderWay
from waypoint.lane.watcher import Watcher
from waypoint.limits import ProxyLimits
from waypoint.resilience.crowd import HTTP1_LANE, Crowd

ffi, lib = _lane.ffi, _lane.lib
_FLAGS = {
    lib.LANE_FINE: RequestFlag.NONE,
    lib.LANE_CLIENT_GONE: RequestFlag.DOWNSTREAM_CLOSED,
    lib.LANE_SERVER_CUT: RequestFlag.UPSTREAM_CLOSED,
    lib.LANE_CLIENT_STUCK: RequestFlag.STREAM_IDLE,
}
_TAKE = 64
_RENDERED = 1 << 17
MAX_CALLERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Requests of one decision that ended alike."""

    entry: int
    target: int
    status: int
    flag: RequestFlag
    count: int
    received: int
    sent: int
    seconds: float
    buckets: list[int]
    received_buckets: list[int]
    sent_buckets: list[int]


class _One(Protocol):
    """`struct lane_count`."""

    entry: int
    target: int
    status: int
    failure: int
    count: int
    received: int
    sent: int
    seconds: float
    buckets: Iterable[int]
    received_buckets: Iterable[int]
    sent_buckets: Iterable[int]


class Host(Protocol):
    """Whom the engine asks; see `waypoint.lane.host.Lane`."""

    def caller(self, number: int) -> object: ...
    def decide(
        self, number: int, request: bytes, sent: bytes
    ) -> tuple[int, list[Target]] | None: ...
    def dial(self, number: int) -> None: ...
    def hand_over(self, number: int, sock: socket.socket, data: bytes) -> None: ...
    def adopt(self, number: int, entry: int, target: int, found: Adopted) -> None: ...
    def closed(self, number: int) -> None: ...
    def gone(self, entry: int) -> None: ...
    def recorded(self) -> None: ...


class Target:
    """An endpoint of the engine."""

    __slots__ = ("_engine", "handle", "number")

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self.number = number
        self.handle = lib.lane_add_target(engine.lane, number)
        if self.handle == ffi.NULL:
            raise MemoryError

    @property
    def active(self) -> int:
        return int(lib.lane_target_active(self.handle))

    @property
    def idle(self) -> int:
        return int(lib.lane_target_idle(self.handle))

    def tell(self, active: int) -> None:
        """How many requests to it are not the engine's."""
        lib.lane_target_elsewhere(self.handle, active)

    @property
    def in_use(self) -> bool:
        return bool(lib.lane_target_in_use(self.handle))

    def connected(self, sock: socket.socket | None) -> None:
        """A dial has ended; None: in vain."""
        if self._engine.is_open:
            lib.lane_connected(self.handle, -1 if sock is None else sock.detach())
        elif sock is not None:
            sock.close()

    def drop(self) -> None:
        """Free it; nothing of it may be used after."""
        lib.lane_drop_target(self.handle)


class Engine:
    """One lane and whom it asks."""

    def __init__(self, limits: ProxyLimits, host: Host, buckets_ms: Iterable[float]) -> None:
        message = limits.message
        bounds = list(buckets_ms)
        numbers = {
            "fields": message.fields,
            "head_bytes": message.head_bytes,
            "line_bytes": message.line_bytes,
            "target_requests": limits.upstream_requests,
            "requests": max(1, limits.worker_requests // 2),
            "client_idle_s": limits.downstream_idle_s,
            "server_idle_s": limits.upstream_idle_s,
            "write_s": limits.write_timeout_s,
            "linger_s": limits.linger_s,
        }
        self.host = host
        self.is_open = True
        self.nobody = ffi.NULL
        self._self = ffi.new_handle(self)
        self._callers: dict[object, object] = {}
        self._crowd: object = None
        self._buckets = len(bounds) + 1
        self._counts = ffi.new("struct lane_count[]", _TAKE)
        made = ffi.new("struct lane_limits *", numbers)
        self.lane = lib.lane_new(made, _CALLS, bounds, len(bounds), self._self)
        if self.lane == ffi.NULL:
            raise MemoryError
        self.watcher = Watcher(self.lane)

    @property
    def descriptor(self) -> int:
        return int(lib.lane_descriptor(self.lane))

    @property
    def clients(self) -> int:
        return int(lib.lane_clients(self.lane))

    @property
    def taken(self) -> int:
        return int(lib.lane_taken(self.lane))

    def join(self, crowd: Crowd) -> None:
        """Count requests under way there: others' share the limit with ours."""
        self._crowd = ffi.from_buffer("uint32_t[]", crowd.cells, require_writable=True)
        lib.lane_join(self.lane, self._crowd, len(crowd.cells), HTTP1_LANE)

    @property
    def known_bytes(self) -> int:
        """What is remembered of decisions."""
        return int(lib.lane_known_bytes(self.lane))

    def poll(self) -> None:
        lib.lane_poll(self.lane)

    def tick(self) -> None:
        lib.lane_tick(self.lane)

    def pause(self, paused: bool) -> None:
        lib.lane_pause(self.lane, paused)

    def drain(self) -> None:
        lib.lane_drain(self.lane)

    def cut(self) -> None:
        """Close every connection."""
        lib.lane_cut(self.lane)

    def under_way(self) -> list[UnderWay]:
        """Requests that a server has."""
        count = lib.lane_list_under_way(self.lane, ffi.NULL, 0)
        found = ffi.new("struct lane_under_way[]", count)
        lib.lane_list_under_way(self.lane, found, count)
        return [
            UnderWay(
                origin=one.origin,
                entry=one.entry,
                target=one.target,
                received=one.received,
                sent=one.sent,
                seconds=one.seconds,
                answered_s=one.answered_s,
                status=one.status,
                head=ffi.buffer(one.head, one.head_bytes)[:],
            )
            for one in found
        ]

    def take_back(self, origin: int) -> None:
        """End one of them, uncounted: what was answered is cut, else `adopt` gets it."""
        lib.lane_take_back(self.lane, origin)

    def close(self) -> None:
        """Close every connection, and forget what was not taken."""
        if not self.is_open:
            return
        self.is_open = False
        lib.lane_free(self.lane)

    def serve(self, sock: socket.socket, number: int, initial: bytes) -> None:
        """Raises `OSError` if the socket cannot be watched; it is the caller's then."""
        if lib.lane_serve(self.lane, sock.fileno(), number, initial, len(initial)) < 0:
            raise OSError("the lane cannot watch a socket")
        sock.detach()

    def forget(self) -> None:
        self._callers.clear()
        self.watcher.forget()
        lib.lane_forget(self.lane)

    def caller(
        self, key: object, fields: CallerFields, headers: Iterable[bytes], query: bool
    ) -> object:
        """The caller of a key, made when it is new."""
        found = self._callers.get(key)
        if found is None:
            if len(self._callers) >= MAX_CALLERS:
                self.forget()
            identity = fields.identity[0][1] if fields.identity else b""
            address = fields.address
            found = lib.lane_add_caller(self.lane, address, len(address), identity, len(identity))
            if found == ffi.NULL:
                return self.nobody
            for name in headers:
                lib.lane_key_header(found, name, len(name))
            if query:
                lib.lane_key_query(found)
            self._callers[key] = found
        return found

    # --- for tests ------------------------------------------------------------------------------

    def render_request(self, caller: object, data: bytes) -> bytes:
        """For tests: the head that would be sent on; empty: the request is not plain."""
        room = ffi.new("char[]", _RENDERED)
        length = lib.lane_render_request(self.lane, caller, data, len(data), room, _RENDERED)
        return bytes(ffi.buffer(room, length))

    def render_response(self, data: bytes, *, is_head: bool) -> tuple[bytes, int]:
        """For tests: the same of an answer, and the length that it says."""
        room, body = ffi.new("char[]", _RENDERED), ffi.new("uint64_t *")
        length = lib.lane_render_response(
            self.lane, data, len(data), is_head, room, _RENDERED, body
        )
        return bytes(ffi.buffer(room, length)), int(body[0])

    def target(self, number: int) -> Target:
        return Target(self, number)

    def take(self) -> list[Count]:
        """What ended since the last call."""
        found: list[Count] = []
        while count := lib.lane_take(self.lane, self._counts, _TAKE):
            found += [self._count(self._counts[index]) for index in range(count)]
        return found

    def _count(self, one: _One) -> Count:
        return Count(
            entry=one.entry,
            target=one.target,
            status=one.status,
            flag=_FLAGS[one.failure],
            count=one.count,
            received=one.received,
            sent=one.sent,
            seconds=one.seconds,
            buckets=list(one.buckets)[: self._buckets],
            received_buckets=list(one.received_buckets)[: self._buckets],
            sent_buckets=list(one.sent_buckets)[: self._buckets],
        )


def _engine(owner: object) -> Engine:
    engine: Engine = ffi.from_handle(owner)
    return engine


def _host(owner: object) -> Host:
    return _engine(owner).host


@ffi.def_extern(error=ffi.NULL)  # type: ignore[untyped-decorator]
def py_caller(owner: object, origin: int) -> object:
    return _host(owner).caller(origin)


@ffi.def_extern(error=ffi.NULL)  # type: ignore[untyped-decorator]
def py_decide(
    owner: object,
    origin: int,
    caller: object,
    key: object,
    key_length: int,
    request: object,
    length: int,
    sent: object,
    sent_length: int,
) -> object:
    asked = ffi.buffer(request, length)[:], ffi.buffer(sent, sent_length)[:]
    decided = _host(owner).decide(origin, *asked)
    if decided is None:
        return ffi.NULL
    number, targets = decided
    handles = ffi.new("struct lane_target *[]", [target.handle for target in targets])
    entry = lib.lane_add_entry(caller, key, key_length, number, handles, len(targets))
    if entry == ffi.NULL:
        _host(owner).gone(number)
    else:
        _engine(owner).watcher.entries[number] = entry
    return entry


@ffi.def_extern()  # type: ignore[untyped-decorator]
def py_dial(owner: object, number: int, handle: object) -> None:
    _host(owner).dial(number)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def py_hand_over(owner: object, origin: int, fd: int, data: object, length: int) -> None:
    _host(owner).hand_over(origin, socket.socket(fileno=fd), ffi.buffer(data, length)[:])


@ffi.def_extern()  # type: ignore[untyped-decorator]
def py_adopt(
    owner: object,
    origin: int,
    client: int,
    request: object,
    length: int,
    server: int,
    answer: object,
    answer_length: int,
    entry: int,
    target: int,
    uses: int,
    _trouble: int,
    unsent: object,
    unsent_length: int,
) -> None:
    found = Adopted(
        client=socket.socket(fileno=client),
        request=ffi.buffer(request, length)[:],
        server=None if server < 0 else socket.socket(fileno=server),
        answer=ffi.buffer(answer, answer_length)[:] if answer_length else b"",
        uses=uses,
        unsent=ffi.buffer(unsent, unsent_length)[:] if unsent_length else b"",
    )
    _host(owner).adopt(origin, entry, target, found)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def py_closed(owner: object, origin: int) -> None:
    _host(owner).closed(origin)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def py_gone(owner: object, entry: int) -> None:
    _engine(owner).watcher.entries.pop(entry, None)
    _host(owner).gone(entry)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def py_recorded(owner: object) -> None:
    _host(owner).recorded()


_CALLS = ffi.new(
    "struct lane_calls *",
    {
        "caller": lib.py_caller,
        "decide": lib.py_decide,
        "dial": lib.py_dial,
        "hand_over": lib.py_hand_over,
        "adopt": lib.py_adopt,
        "closed": lib.py_closed,
        "gone": lib.py_gone,
        "recorded": lib.py_recorded,
    },
)
