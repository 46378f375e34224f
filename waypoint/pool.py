"""Connections to endpoints: reuse an idle one, else dial."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from mesh.errors import LocalProtocolError, MeshnodeError
from mesh.http1.message import RequestHead
from mesh.model.request import RequestFlag
from waypoint.contract import Failure, FailureKind, ResponseSink, UpstreamStream
from waypoint.h1_client import Http1Client
from waypoint.limits import ProxyLimits
from waypoint.target import Http1Idle, Speaks, Target

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
    ) -> None:
        self._loop = loop
        self._connector = connector
        self._limits = limits
        self._spawn = spawn
        self._targets: set[Target] = set()

    def start(
        self, target: Target, speaks: Speaks, head: RequestHead, taker: Taker
    ) -> Pending | None:
        """Send a request's head, now or when a connection is there; None if it was sent or
        refused already. `taker.connected` or `taker.upstream_failed` follows otherwise."""
        while target.idle:
            client = target.idle.pop()
            if client.is_open:
                self._send(client, head, taker)
                return None
        pending = Pending(head, taker)
        self._spawn(self._dial(target, pending))
        return pending

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
            if not target.idle and not target.multiplexed and not target.active:
                self._targets.discard(target)

    def close_all(self) -> None:
        """Close every idle connection."""
        for target in self._targets:
            for client in target.idle:
                client.close()
