"""Connections to endpoints: reuse an idle one, else dial."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from mesh.errors import LocalProtocolError, MeshnodeError
from mesh.http1.message import CONNECT, RequestHead
from mesh.model.request import RequestFlag
from mesh.resilience.circuit import CircuitBreaker, Resource
from waypoint.codec.flush_queue import FlushQueue
from waypoint.codec.h1_client import Http1Client
from waypoint.codec.h2_client import Http2Client
from waypoint.contract import Failure, FailureKind
from waypoint.limits import ProxyLimits
from waypoint.upstream.pending import Pending, Slot, Taker
from waypoint.upstream.target import Http1Idle, MultiplexedClient, Speaks, Target

P = TypeVar("P", bound=asyncio.Protocol)
SHARED_POLL_S = 0.02
"""Between two looks for a connection that another process may have given back."""


class Connector(Protocol):
    """Opens connections to endpoints, directly or through tunnels."""

    async def connect(self, target: Target, factory: Callable[[], P]) -> P:
        """Connect and give the transport to a new protocol. Raises `MeshnodeError`."""


class Lane(Protocol):
    """See `waypoint.lane.h2_lane`."""

    def enter(self, link: Http2Client, target: Target) -> None: ...
    def reserve(self, target: Target, wanted: bool) -> None: ...


class Pool:
    """The connections of one worker to all endpoints.

    Args:
        spawn: runs a dial; the worker's task group owns it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connector: Connector,
        limits: ProxyLimits,
        spawn: Callable[[Coroutine[None, None, None]], None],
        flushes: FlushQueue,
    ) -> None:
        self._loop = loop
        self._connector = connector
        self._limits = limits
        self._spawn = spawn
        self._flushes = flushes
        self._targets: set[Target] = set()
        self._queues: dict[Target, deque[Pending]] = {}
        """Requests that wait for a stream."""
        self._dials: dict[Target, int] = {}
        self._polled: set[Target] = set()
        self.h2_lane: Lane | None = None
        """Uses connections to HTTP/2 servers too, where there is one."""

    def start(
        self,
        target: Target,
        speaks: Speaks,
        head: RequestHead,
        taker: Taker,
        breaker: CircuitBreaker | None = None,
    ) -> Pending | None:
        """Send a request's head, now or when a connection is there; None if it was sent or
        refused already. `taker.connected` or `taker.upstream_failed` follows otherwise."""
        if speaks is Speaks.HTTP2:
            return self._start_http2(target, head, taker, breaker)
        while target.idle:
            client = target.idle.pop()
            if client.is_open:
                self._send(client, head, taker)
                return None
        if breaker is not None and not breaker.acquire(Resource.PENDING):
            self._refuse(taker)
            return None
        pending = Pending(head, taker, breaker)
        if breaker is not None and not breaker.connect(target.connections, _name(target)):
            target.waiting.append(pending)
            self._poll(target, breaker)
            return pending
        self._spawn(self._dial(target, pending, self._slot(target, breaker)))
        return pending

    def _slot(self, target: Target, breaker: CircuitBreaker | None) -> Slot:
        """Count a connection from now on: dials are tasks, and begin later."""
        target.connections += 1
        return Slot(breaker, "" if breaker is None else _name(target))

    def _refuse(self, taker: Taker) -> None:
        flag = RequestFlag.UPSTREAM_OVERFLOW
        taker.upstream_failed(Failure(kind=FailureKind.REFUSED, flag=flag, detail="overflow"))

    def _start_http2(
        self, target: Target, head: RequestHead, taker: Taker, breaker: CircuitBreaker | None
    ) -> Pending | None:
        queue = self._queues.get(target)
        if not queue:
            for client in target.multiplexed:
                if client.can_open and client.is_settled >= _needs_settings(head):
                    if _needs_settings(head) and not client.takes_upgrades:
                        return self.start(target, Speaks.HTTP1, head, taker, breaker)
                    self._open(client, head, taker)
                    return None
        if breaker is not None and not breaker.acquire(Resource.PENDING):
            self._refuse(taker)
            return None
        pending = Pending(head, taker, breaker)
        self._queues.setdefault(target, deque()).append(pending)
        if self.h2_lane is not None:
            self.h2_lane.reserve(target, True)
        self._dial_for_queue(target)
        return pending

    def _dial_for_queue(self, target: Target) -> None:
        """One dial serves as many requests as a connection takes; where a limit allows none, they
        wait for a stream, or for a connection to end."""
        queue, dials = self._queues.get(target), self._dials.get(target, 0)
        while queue and queue[0].taker is None:
            queue.popleft()
        if not queue or len(queue) <= dials * self._limits.max_streams:
            return
        if any(client.can_serve and not client.is_settled for client in target.multiplexed):
            return  # its SETTINGS come first
        breaker = queue[0].breaker
        if breaker is not None and not breaker.connect(target.connections, _name(target)):
            self._poll(target, breaker)
            return
        self._dials[target] = dials + 1
        self._spawn(self._dial_http2(target, self._slot(target, breaker)))

    def _serve_queue(self, target: Target) -> None:
        """Give streams that are free to who waited longest."""
        queue = self._queues.get(target)
        for client in list(target.multiplexed):
            while queue and client.can_open:
                if client.is_settled < _needs_settings(queue[0].head):
                    break  # they are the first that a server sends
                pending = queue.popleft()
                if _needs_settings(pending.head) and not client.takes_upgrades:
                    self._fall_back(target, pending)
                    continue
                taker = pending.take()
                if taker is not None:
                    self._open(client, pending.head, taker)
                    taker.flush_request()
        if not queue:
            self._queues.pop(target, None)
            if self.h2_lane is not None:
                self.h2_lane.reserve(target, False)
        else:
            self._dial_for_queue(target)

    def _fall_back(self, target: Target, pending: Pending) -> None:
        """A server that has no upgrades in HTTP/2 may have them in HTTP/1.1."""
        while target.idle:
            client = target.idle.pop()
            if client.is_open:
                self._serve(client, pending)
                return
        target.waiting.append(pending)
        self._dial_for_waiting(target)

    def _fall_back_all(self, target: Target) -> None:
        """A connection ended before its server's SETTINGS came."""
        queue = self._queues.get(target)
        if queue is not None:
            undecided = [pending for pending in queue if _needs_settings(pending.head)]
            for pending in undecided:
                queue.remove(pending)
                self._fall_back(target, pending)

    def _stream_free(self, target: Target) -> None:
        if target in self._queues:  # from the loop: events of a session must not nest
            self._loop.call_soon(self._serve_queue, target)

    def _poll(self, target: Target, breaker: CircuitBreaker) -> None:
        """Look again: another process does not tell when one of its connections ends."""
        if breaker.is_shared and target not in self._polled:
            self._polled.add(target)
            self._loop.call_later(SHARED_POLL_S, self._look_again, target)

    def _look_again(self, target: Target) -> None:
        self._polled.discard(target)
        self._dial_for_waiting(target)
        self._dial_for_queue(target)

    def _open(self, client: MultiplexedClient, head: RequestHead, taker: Taker) -> None:
        try:
            stream = client.open(head, taker)
        except LocalProtocolError as error:
            taker.unsendable(error)
            return
        taker.connected(stream)

    async def _dial_http2(self, target: Target, slot: Slot) -> None:
        self._targets.add(target)
        client: Http2Client | None = None
        detail = f"no connection in {self._limits.connect_timeout_s:g} s"
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                client = await self._connector.connect(target, self._new_http2(target, slot))
        except TimeoutError:
            pass  # `detail` says so already
        except MeshnodeError as error:
            detail = str(error)
        self._dials[target] -= 1
        if not self._dials[target]:
            del self._dials[target]
        if client is not None:
            target.multiplexed.append(client)
            if self.h2_lane is not None:
                self.h2_lane.enter(client, target)
            self._serve_queue(target)
            return
        self._gone(target, slot)
        if any(shared.can_serve for shared in target.multiplexed):
            return  # who waits can have one of its streams
        if self.h2_lane is not None:
            self.h2_lane.reserve(target, False)
        for pending in self._queues.pop(target, ()):
            self._failed(pending, detail)

    def _new_http2(self, target: Target, slot: Slot) -> Callable[[], Http2Client]:
        def closed(client: Http2Client) -> None:
            self._gone(target, slot)
            if client in target.multiplexed:
                target.multiplexed.remove(client)
            if not client.is_settled:
                self._fall_back_all(target)
            self._stream_free(target)

        def make() -> Http2Client:
            client = Http2Client(self._loop, self._limits, closed)
            client.on_free = lambda: self._stream_free(target)
            return client

        return make

    def _send(self, client: Http1Idle, head: RequestHead, taker: Taker) -> None:
        try:
            stream = client.start(head, taker)
        except LocalProtocolError as error:
            client.close()
            taker.unsendable(error)
            return
        taker.connected(stream)

    async def _dial(self, target: Target, pending: Pending, slot: Slot) -> None:
        self._targets.add(target)
        detail = f"no connection in {self._limits.connect_timeout_s:g} s"
        client: Http1Client | None = None
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                client = await self._connector.connect(target, self._new_http1(target, slot))
        except TimeoutError:
            pass  # `detail` says so already
        except MeshnodeError as error:
            detail = str(error)
        if client is None:
            self._gone(target, slot)
            self._failed(pending, detail)
        elif not self._serve(client, pending):
            self._free(target, client)

    def _serve(self, client: Http1Idle, pending: Pending) -> bool:
        """Send what waited; False if nobody waits any more."""
        taker = pending.take()
        if taker is None:
            return False
        self._send(client, pending.head, taker)
        taker.flush_request()
        return True

    def _gone(self, target: Target, slot: Slot) -> None:
        """A connection has ended; who waits for one may dial."""
        if not slot.release():
            return
        target.connections -= 1
        self._dial_for_waiting(target)

    def _dial_for_waiting(self, target: Target) -> None:
        while target.waiting:
            pending = target.waiting.popleft()
            if pending.taker is None:
                continue
            limits = pending.breaker
            if limits is not None and not limits.connect(target.connections, _name(target)):
                target.waiting.appendleft(pending)
                self._poll(target, limits)
                return
            self._spawn(self._dial(target, pending, self._slot(target, limits)))
            return

    def _failed(self, pending: Pending, detail: str) -> None:
        taker = pending.take()
        if taker is not None:
            failure = Failure(
                kind=FailureKind.NEVER_SENT, flag=RequestFlag.UPSTREAM_FAILURE, detail=detail
            )
            taker.upstream_failed(failure)

    def new_http1(self, target: Target) -> Http1Client:
        """A codec for a connection that was dialled elsewhere."""
        self._targets.add(target)
        return self._new_http1(target, self._slot(target, None))()

    def _new_http1(self, target: Target, slot: Slot) -> Callable[[], Http1Client]:
        def closed(client: Http1Client) -> None:
            if client in target.idle:
                target.idle.remove(client)
            self._gone(target, slot)

        def make() -> Http1Client:
            return Http1Client(
                self._limits,
                on_free=lambda client: self._free(target, client),
                on_closed=closed,
                flushes=self._flushes,
            )

        return make

    def _free(self, target: Target, client: Http1Client) -> None:
        while target.waiting:
            if self._serve(client, target.waiting.popleft()):
                return
        client.idle_since = self._loop.time()
        target.idle.append(client)

    def close_idle(self) -> None:
        """Close connections that nobody used for a while; call it about once a second."""
        oldest = self._loop.time() - self._limits.upstream_idle_s
        for target in list(self._targets):
            stale = [client for client in target.idle if client.idle_since < oldest]
            for client in stale:
                target.idle.remove(client)
                client.close()
            for shared in list(target.multiplexed):
                if not shared.open_streams and shared.idle_since < oldest:
                    target.multiplexed.remove(shared)
                    shared.close()
            if not target.idle and not target.multiplexed and not target.active:
                self._targets.discard(target)

    def close_all(self) -> None:
        """Close every idle connection."""
        for target in self._targets:
            for client in (*target.idle, *target.multiplexed):
                client.close()


def _needs_settings(head: RequestHead) -> bool:
    """Whether only some HTTP/2 servers take a request (RFC 8441)."""
    return head.upgrade not in (b"", CONNECT)


def _name(target: Target) -> str:
    """What limits per endpoint call it."""
    return str(target.key.address)
