"""A request that the lane began and Python ends: the answer is unusual, or none came."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Protocol

from mesh.http1.head import parse_request_head
from mesh.http1.message import Headers, RequestHead, ResponseHead
from mesh.model.request import RequestFlag
from waypoint.codec.h1_client import Http1Client
from waypoint.contract import (
    Downstream,
    Exchanges,
    Failure,
    FailureKind,
    Origin,
    RequestSink,
)
from waypoint.downstream.attach import attach
from waypoint.exchange.exchange import Exchange
from waypoint.exchange.forward_headers import CallerFields, prepare_request
from waypoint.exchange.open_exchanges import refuse
from waypoint.exchange.proxy import Proxy
from waypoint.exchange.tries import Tries
from waypoint.limits import ProxyLimits
from waypoint.routing.plan import Forward, Reply
from waypoint.upstream.pool import Pool
from waypoint.upstream.target import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """Both connections of a request.

    Attributes:
        request: as it came, whole.
        server: None if it has closed without a byte of an answer.
        answer: what was read of it.
        uses: requests that the server's connection has had, this one included.
        unsent: what the server has yet to get of the request.
    """

    client: socket.socket
    request: bytes
    server: socket.socket | None
    answer: bytes
    uses: int
    unsent: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """A request that a server has; `struct lane_under_way`.

    Attributes:
        status: of its answer, 0 if none has begun; head: of the request, as it came.
    """

    origin: int
    entry: int
    target: int
    received: int
    sent: int
    seconds: float
    answered_s: float
    status: int
    head: bytes


class _Cut:
    """`Downstream` of a client that is gone."""

    protocol = "HTTP/1.1"

    def inform(self, status: int, headers: Headers) -> None: ...
    def respond(self, head: ResponseHead) -> None: ...
    def send_body(self, data: bytes) -> None: ...
    def send_end(self, trailers: Headers) -> None: ...
    def flush(self) -> None: ...
    def finish(self) -> None: ...
    def reset(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class _Sent:
    """`UpstreamStream` of a request that was sent already."""

    def __init__(self, client: Http1Client) -> None:
        self._client = client

    def send_body(self, data: bytes) -> None: ...
    def send_end(self, trailers: Headers) -> None: ...
    def flush(self) -> None: ...

    def cancel(self) -> None:
        self._client.cancel()

    def pause_reading(self) -> None:
        self._client.pause_reading()

    def resume_reading(self) -> None:
        self._client.resume_reading()


class _Resumed(Exchange):
    """An exchange whose first try is under way."""

    __slots__ = ("how",)
    how: Callable[[_Resumed], None]

    def begin(self) -> None:
        self.how(self)

    def resume(self, plan: Forward, target: Target) -> None:
        """As after `begin`, with a request that waits for its connection."""
        self.tries = Tries(self._host, self, plan)
        self.tries.resume(target)
        self.route, self.marks = plan.route, plan.marks

    def resume_answered(self, plan: Forward, target: Target, found: UnderWay) -> None:
        """The same, in the midst of an answer."""
        self.resume(plan, target)
        self._responded = True
        self.started_at -= found.seconds
        self.responded_at = self.started_at + found.answered_s
        self.status = found.status
        self.bytes_received, self.bytes_sent = found.received, found.sent


class _Once:
    """`Exchanges` for the first request of a connection; the proxy makes all others."""

    def __init__(self, proxy: Proxy, how: Callable[[_Resumed], None]) -> None:
        self._proxy = proxy
        self._how: Callable[[_Resumed], None] | None = how

    def open(self, downstream: Downstream, head: RequestHead, origin: Origin) -> RequestSink:
        how, self._how = self._how, None
        if how is None:
            return self._proxy.open(downstream, head, origin)
        exchange = self._proxy.begun(_Resumed(self._proxy, downstream, head, origin))
        exchange.how = how
        return exchange

    def refused(self, origin: Origin, protocol: str, status: int, code: str) -> None:
        self._proxy.refused(origin, protocol, status, code)


class _Joining:
    """The wait for the transport of the server's connection."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Serve(Protocol):
    """Gives a client's connection to its codec."""

    async def __call__(
        self, sock: socket.socket, origin: Origin, initial: bytes, exchanges: Exchanges
    ) -> None: ...


class Adopter:
    """Builds codecs and exchange around connections that are in the midst of a request."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        proxy: Proxy,
        pool: Pool,
        serve: Serve,
        caller_fields: Callable[[Origin], CallerFields],
        random: Random,
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._limits: ProxyLimits = proxy.limits
        self._loop = loop
        self._proxy = proxy
        self._pool = pool
        self._serve = serve
        self._caller_fields = caller_fields
        self._random = random
        self._spawn = spawn

    async def adopt(
        self,
        origin: Origin,
        plan: Forward,
        target: Target,
        found: Adopted,
        refusal: Reply | None = None,
    ) -> None:
        """Serve the client, beginning with this request, which policy may not allow any more."""

        def how(exchange: _Resumed) -> None:
            fields = self._caller_fields(origin)
            exchange.seen = prepare_request(exchange.head, fields, self._random)
            exchange.resume(plan, target)
            if refusal is not None:
                if found.server is not None:
                    found.server.close()
                refuse(exchange, refusal)
                return
            if found.server is None:
                exchange.upstream_failed(_closed_unanswered(found.uses))
                return
            joining = _Joining()
            exchange.wait_for(joining)
            self._spawn(self._join(exchange, found.server, target, found, joining))

        await self._serve(found.client, origin, found.request, _Once(self._proxy, how))

    def end(
        self, origin: Origin, plan: Forward, target: Target, found: UnderWay, refusal: Reply
    ) -> None:
        """Tell of a request that was cut in the midst of its answer."""
        head = parse_request_head(found.head.removesuffix(b"\r\n\r\n"), self._limits.message)
        exchange = self._proxy.begun(_Resumed(self._proxy, _Cut(), head, origin))
        exchange.seen = prepare_request(head, self._caller_fields(origin), self._random)
        exchange.resume_answered(plan, target, found)
        refuse(exchange, refusal)

    async def _join(
        self,
        exchange: _Resumed,
        sock: socket.socket,
        target: Target,
        found: Adopted,
        joining: _Joining,
    ) -> None:
        client = self._pool.new_http1(target)

        def join() -> None:
            if joining.cancelled:
                client.close()
                return
            client.resume(exchange.head, exchange, found.uses, found.unsent)
            exchange.connected(_Sent(client))

        try:
            await attach(self._loop, sock, client, found.answer, join)
        except OSError as error:
            log.info("%s went away: %s", target.key.address, error)
            sock.close()
            client.connection_lost(error)
            if not joining.cancelled:
                exchange.upstream_failed(_closed_unanswered(1))


def _closed_unanswered(uses: int) -> Failure:
    reused = uses > 1
    return Failure(
        kind=FailureKind.NO_ANSWER_REUSED if reused else FailureKind.MAY_BE_DELIVERED,
        flag=RequestFlag.UPSTREAM_CLOSED,
        detail="closed before an answer",
    )
