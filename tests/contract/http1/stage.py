"""A proxy on loopback between raw sockets and a scripted server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

import uvloop

from mesh.model.address import SocketAddress, parse_ip
from mesh.model.identity import SpiffeId
from mesh.model.request import RequestRecord
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Endpoint, Service, ServiceKey, ServicePort
from mesh.telemetry.party import party
from tests.contract.http1.laned import (
    USE_H2_LANE,
    USE_LANE,
    Behind,
    listening,
    new_h2_lane,
    new_lane,
)
from tests.contract.http1.observed import Observed
from waypoint.codec.flush_queue import FlushQueue
from waypoint.codec.h1_server import Http1Server
from waypoint.codec.h2_server import Http2Server
from waypoint.contract import Origin
from waypoint.exchange.proxy import Proxy
from waypoint.lane.h2_lane import Http2Lane
from waypoint.lane.host import Lane
from waypoint.limits import ProxyLimits
from waypoint.routing.plan import Router
from waypoint.routing.service_router import ServiceRouter
from waypoint.upstream.connect_tcp import TcpConnector
from waypoint.upstream.endpoints import Endpoints
from waypoint.upstream.pool import Pool

CALLER = SpiffeId(trust_domain="cluster.local", namespace="shop", service_account="client")
OWN = SpiffeId(trust_domain="cluster.local", namespace="shop", service_account="waypoint")
PORT = 80
Server = TypeVar("Server", Http1Server, Http2Server)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Stage:
    """A running proxy.

    Attributes:
        port: where clients connect, port_h2: where they do with HTTP/2.
        records: requests that ended in Python.
        lane, h2_lane: take plain requests first, if the test says so.
    """

    proxy: Proxy
    port: int
    port_h2: int
    records: list[RequestRecord] = field(default_factory=list)
    lane: Lane | None = None
    h2_lane: Http2Lane | None = None
    clients: Clients = field(default_factory=lambda: Clients())

    async def connect(self, port: int | None = None) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", port or self.port))

    async def ask(self, data: bytes) -> bytes:
        """Send bytes, say that no more come, and read all that is answered."""
        async with await self.connect() as client:
            client.send(data)
            client.writer.write_eof()
            return await client.read_all()


@dataclass(slots=True)
class Client:
    """One raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(30):
            return await self.reader.readuntil(end)

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(30):
            return await self.reader.readexactly(count)

    async def read_all(self) -> bytes:
        async with asyncio.timeout(30):
            return await self.reader.read()


@dataclass(slots=True)
class Clients:
    """Connections that the proxy accepted and that are not over: a loop that closes before them
    complains of their transports."""

    _open: set[Http1Server | Http2Server] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, server: Server) -> Server:
        self._open.add(server)
        return server

    def forget(self, server: Http1Server | Http2Server) -> None:
        self._open.discard(server)
        self._changed.set()

    def http2(self) -> list[Http2Server]:
        return [server for server in self._open if isinstance(server, Http2Server)]

    async def gone(self) -> None:
        """Close what is still open and wait until all is over."""
        for server in tuple(self._open):
            if isinstance(server, Http1Server):
                server.reset()
            else:
                server.close()
        async with asyncio.timeout(10):
            while self._open:
                self._changed.clear()
                await self._changed.wait()


RouterOf = Callable[[Endpoints], Router]


@contextlib.asynccontextmanager
async def stage(
    *handlers: Handler,
    limits: ProxyLimits | None = None,
    router: RouterOf = ServiceRouter,
    addresses: tuple[SocketAddress, ...] = (),
    app_protocol: str = "",
    observed: Observed | None = None,
) -> AsyncIterator[Stage]:
    """Run a proxy for one service; each handler is a server that becomes an endpoint of it."""
    limits = limits or ProxyLimits()
    records: list[RequestRecord] = []
    observed = observed or Observed()
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(_serving(handler)) for handler in handlers]
        service = _service([*servers, *addresses], app_protocol)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        clients = Clients()
        behind = _behind(service, router, limits, observed, records, clients, tasks)
        stack.push_async_callback(clients.gone)
        stack.callback(behind.pool.close_all)
        h2_lane = _h2_lane(behind) if USE_H2_LANE.get() else None
        listeners = await _listeners(behind, clients, h2_lane)
        for listener in listeners:
            stack.callback(listener.close)
        port, port_h2 = (listener.sockets[0].getsockname()[1] for listener in listeners)
        lane = None
        if USE_LANE.get():
            lane = new_lane(behind)
            observed.attach(lane)
            port = stack.enter_context(listening(behind, lane))
        yield Stage(
            proxy=behind.proxy,
            port=port,
            port_h2=port_h2,
            records=records,
            lane=lane,
            h2_lane=h2_lane,
            clients=clients,
        )


def _behind(
    service: Service,
    router: RouterOf,
    limits: ProxyLimits,
    observed: Observed,
    records: list[RequestRecord],
    clients: Clients,
    tasks: asyncio.TaskGroup,
) -> Behind:
    """What stands behind every connection of a client."""

    def spawn(work: Coroutine[None, None, None]) -> None:
        tasks.create_task(work)

    loop = asyncio.get_running_loop()
    flushes = FlushQueue(loop)
    pool = Pool(loop, TcpConnector(loop), limits, spawn, flushes)
    snapshot = MeshSnapshot(revision=1, services={service.key: service})
    proxy = Proxy(
        loop,
        limits=limits,
        pool=pool,
        router=router(Endpoints(snapshot)),
        record=observed.recorded_by(records),
        random=Random(7),
        identity=OWN,
        traces=observed.traces,
        span=observed.records.span,
    )
    proxy.tap = observed.shown_to()
    return Behind(
        loop=loop,
        proxy=proxy,
        pool=pool,
        origin=_origin(service),
        limits=limits,
        flushes=flushes,
        add=clients.add,
        forget=clients.forget,
        spawn=spawn,
        observation=observed.observation,
    )


@contextlib.asynccontextmanager
async def _serving(handler: Handler) -> AsyncIterator[SocketAddress]:
    async with serving(handler) as port:
        yield SocketAddress(parse_ip("127.0.0.1"), port)


def _h2_lane(behind: Behind) -> Http2Lane:
    return new_h2_lane(behind.loop, behind.proxy, behind.pool, behind.limits)


async def _listeners(
    behind: Behind, clients: Clients, h2_lane: Http2Lane | None
) -> tuple[asyncio.Server, asyncio.Server]:
    """For HTTP/1.1, and for HTTP/2."""
    loop, proxy, origin, limits = behind.loop, behind.proxy, behind.origin, behind.limits

    def http1() -> Http1Server:
        flushes = behind.flushes
        return clients.add(Http1Server(loop, proxy, origin, limits, clients.forget, flushes))

    def http2() -> Http2Server:
        return clients.add(Http2Server(loop, proxy, origin, limits, clients.forget, h2_lane))

    first = await loop.create_server(http1, "127.0.0.1", 0)
    return first, await loop.create_server(http2, "127.0.0.1", 0)


def _origin(service: Service) -> Origin:
    return Origin(
        principal=CALLER,
        client=SocketAddress(parse_ip("10.0.0.9"), 0),
        dialled=SocketAddress(parse_ip("10.96.0.1"), PORT),
        service=service,
        workload=None,
        src=party(None, CALLER),
    )


def _service(servers: Sequence[SocketAddress], app_protocol: str) -> Service:
    return Service(
        key=ServiceKey("shop/web"),
        name="web",
        namespace="shop",
        hostname="web.shop.svc.cluster.local",
        addresses=(parse_ip("10.96.0.1"),),
        ports=(ServicePort(port=PORT, app_protocol=app_protocol),),
        endpoints=tuple(
            Endpoint(address=server.ip, workload=None, ports={PORT: server.port})
            for server in servers
        ),
    )


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """Run a server on a free port; its connections are gone when this returns."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the proxy dropped the connection, which many tests are about
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def run(work: Coroutine[None, None, None]) -> None:
    """Run a test's coroutine on the loop of production."""
    uvloop.run(work)


def answering(*answers: bytes, seen: list[bytes] | None = None) -> Handler:
    """A server that gives one answer per request (without body), then closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(head)
            writer.write(answer)
            await writer.drain()

    return handle
