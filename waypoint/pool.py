"""Connections to endpoints: reuse an idle one, else dial."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from mesh.errors import LocalProtocolError, MeshnodeError
from mesh.http1.message import RequestHead
from mesh.model.request import RequestFlag
from waypoint.contract import Failure, FailureKind, ResponseSink, UpstreamStream
from waypoint.flush_queue import FlushQueue
from waypoint.h1_client import Http1Client
from waypoint.h2_client import Http2Client
from waypoint.limits import ProxyLimits
from waypoint.target import Http1Idle, MultiplexedClient, Speaks, Target

P = TypeVar("P", bound=asyncio.Protocol)


class Connector(Protocol):
    """Opens connections to endpoints, directly or through tunnels."""

    async def connect(self, target: Target, factory: Callable[[], P]) -> P:
        """Connect and give the transport to a new protocol. Raises `MeshnodeError`."""


class Taker(ResponseSink, Protocol):
    """Who wants to send a request; the exchange."""

    def connected(self, stream: UpstreamStream) -> None: ...
    def flush_request(self) -> None: ...
    def unsendable(self, error: LocalProtocolError) -> None: ...


class Pending:
    """A request that waits for its connection."""

    __slots__ = ("head", "taker")

    def __init__(self, head: RequestHead, taker: Taker) -> None:
        self.head = head
        self.taker: Taker | None = taker

    def cancel(self) -> None:
        """Nobody waits any more; the connection will serve another request."""
        self.taker = None


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
        self, target: Target, speaks: Speaks, head: RequestHead, taker: Taker
    ) -> Pending | None:
        """Send a request's head, now or when a connection is there; None if it was sent or
        refused already. `taker.connected` or `taker.upstream_failed` follows otherwise."""
        if speaks is Speaks.HTTP2:
            return self._start_http2(target, head, taker)
        while target.idle:
            client = target.idle.pop()
            if client.is_open:
                self._send(client, head, taker)
                return None
        pending = Pending(head, taker)
        self._spawn(self._dial(target, pending))
        return pending

    def _start_http2(self, target: Target, head: RequestHead, taker: Taker) -> Pending | None:
        for client in target.multiplexed:
            if client.can_open:
                self._open(client, head, taker)
                return None
        pending = Pending(head, taker)
        waiting = self._waiting.setdefault(target, [])
        waiting.append(pending)
        # One dial serves as many requests as a connection takes.
        if len(waiting) % self._limits.max_streams == 1:
            self._spawn(self._dial_http2(target))
        return pending

    def _open(self, client: MultiplexedClient, head: RequestHead, taker: Taker) -> None:
        try:
            stream = client.open(head, taker)
        except LocalProtocolError as error:
            taker.unsendable(error)
            return
        taker.connected(stream)

    async def _dial_http2(self, target: Target) -> None:
        self._targets.add(target)
        client: Http2Client | None = None
        detail = f"no connection in {self._limits.connect_timeout_s:g} s"
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                client = await self._connector.connect(target, self._new_http2(target))
        except TimeoutError:
            pass  # `detail` says so already
        except MeshnodeError as error:
            detail = str(error)
        if client is not None:
            target.multiplexed.append(client)
        waiting = self._waiting.pop(target, [])
        for pending in waiting:
            taker = pending.taker
            if taker is None:
                continue
            if client is None:
                self._failed(pending, detail)
            elif client.can_open:
                self._open(client, pending.head, taker)
                taker.flush_request()
            else:
                self._start_http2(target, pending.head, taker)

    def _new_http2(self, target: Target) -> Callable[[], Http2Client]:
        def closed(client: Http2Client) -> None:
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

    async def _dial(self, target: Target, pending: Pending) -> None:
        self._targets.add(target)
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                client = await self._connector.connect(target, self._new_http1(target))
        except TimeoutError:
            self._failed(pending, f"no connection in {self._limits.connect_timeout_s:g} s")
            return
        except MeshnodeError as error:
            self._failed(pending, str(error))
            return
        if pending.taker is None:
            self._free(target, client)
        else:
            self._send(client, pending.head, pending.taker)
            pending.taker.flush_request()

    def _failed(self, pending: Pending, detail: str) -> None:
        taker, pending.taker = pending.taker, None
        if taker is not None:
            failure = Failure(
                kind=FailureKind.NEVER_SENT, flag=RequestFlag.UPSTREAM_FAILURE, detail=detail
            )
            taker.upstream_failed(failure)

    def _new_http1(self, target: Target) -> Callable[[], Http1Client]:
        def make() -> Http1Client:
            return Http1Client(
                self._limits,
                on_free=lambda client: self._free(target, client),
                on_closed=lambda client: self._closed(target, client),
                flushes=self._flushes,
            )

        return make

    def _free(self, target: Target, client: Http1Client) -> None:
        client.idle_since = self._loop.time()
        target.idle.append(client)

    def _closed(self, target: Target, client: Http1Client) -> None:
        if client in target.idle:
            target.idle.remove(client)

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
