"""Connections to endpoints: reuse an idle one, else dial."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from mesh.errors import LocalProtocolError, MeshnodeError
from mesh.http1.message import RequestHead
from mesh.model.request import RequestFlag
from mesh.resilience.circuit import CircuitBreaker, Resource
from waypoint.contract import Failure, FailureKind
from waypoint.flush_queue import FlushQueue
from waypoint.h1_client import Http1Client
from waypoint.h2_client import Http2Client
from waypoint.limits import ProxyLimits
from waypoint.pending import Pending, Slot, Taker
from waypoint.target import Http1Idle, MultiplexedClient, Speaks, Target

P = TypeVar("P", bound=asyncio.Protocol)


class Connector(Protocol):
    """Opens connections to endpoints, directly or through tunnels."""

    async def connect(self, target: Target, factory: Callable[[], P]) -> P:
        """Connect and give the transport to a new protocol. Raises `MeshnodeError`."""


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
        self._waiting: dict[Target, list[Pending]] = {}

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
        if breaker is not None and not breaker.connect(target.connections):
            target.waiting.append(pending)
            return pending
        self._spawn(self._dial(target, pending, self._slot(target, breaker)))
        return pending

    def _slot(self, target: Target, breaker: CircuitBreaker | None) -> Slot:
        """Count a connection from now on: dials are tasks, and begin later."""
        target.connections += 1
        return Slot(breaker)

    def _refuse(self, taker: Taker) -> None:
        flag = RequestFlag.UPSTREAM_OVERFLOW
        taker.upstream_failed(Failure(kind=FailureKind.REFUSED, flag=flag, detail="overflow"))

    def _start_http2(
        self, target: Target, head: RequestHead, taker: Taker, breaker: CircuitBreaker | None
    ) -> Pending | None:
        for client in target.multiplexed:
            if client.can_open:
                self._open(client, head, taker)
                return None
        waiting = self._waiting.get(target, [])
        # One dial serves as many requests as a connection takes.
        must_dial = len(waiting) % self._limits.max_streams == 0
        if breaker is not None:
            if not breaker.acquire(Resource.PENDING):
                self._refuse(taker)
                return None
            if must_dial and not breaker.connect(target.connections):
                breaker.release(Resource.PENDING)
                self._refuse(taker)
                return None
        pending = Pending(head, taker, breaker)
        self._waiting.setdefault(target, []).append(pending)
        if must_dial:
            self._spawn(self._dial_http2(target, breaker, self._slot(target, breaker)))
        return pending

    def _open(self, client: MultiplexedClient, head: RequestHead, taker: Taker) -> None:
        try:
            stream = client.open(head, taker)
        except LocalProtocolError as error:
            taker.unsendable(error)
            return
        taker.connected(stream)

    async def _dial_http2(self, target: Target, breaker: CircuitBreaker | None, slot: Slot) -> None:
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
        if client is not None:
            target.multiplexed.append(client)
        else:
            self._gone(target, slot)
        waiting = self._waiting.pop(target, [])
        for pending in waiting:
            if client is None:
                self._failed(pending, detail)
                continue
            taker = pending.take()
            if taker is None:
                continue
            if client.can_open:
                self._open(client, pending.head, taker)
                taker.flush_request()
            else:
                self._start_http2(target, pending.head, taker, breaker)

    def _new_http2(self, target: Target, slot: Slot) -> Callable[[], Http2Client]:
        def closed(client: Http2Client) -> None:
            self._gone(target, slot)
            if client in target.multiplexed:
                target.multiplexed.remove(client)

        return lambda: Http2Client(self._loop, self._limits, closed)

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
        while target.waiting:
            pending = target.waiting.popleft()
            if pending.taker is None:
                continue
            limits = pending.breaker
            if limits is not None and not limits.connect(target.connections):
                target.waiting.appendleft(pending)
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
