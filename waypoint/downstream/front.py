"""From a client's socket to its codec: sniff, then HTTP/1, HTTP/2 or an opaque relay."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from mesh.errors import MeshnodeError
from mesh.tunnel.contract import TunnelEngine
from waypoint.codec.flush_queue import FlushQueue
from waypoint.codec.h1_server import Http1Server
from waypoint.codec.h2_server import Http2Server
from waypoint.contract import Exchanges, Origin
from waypoint.downstream.attach import attach
from waypoint.downstream.client_hello import MAX_BYTES as HELLO_BYTES
from waypoint.downstream.client_hello import server_name
from waypoint.downstream.opaque import OpaqueConnections, unrecorded
from waypoint.downstream.sniff import PREFACE, SNIFF_BYTES, Known, Spoken, classify, known_protocol
from waypoint.lane.h2_lane import Http2Lane
from waypoint.limits import ProxyLimits
from waypoint.resilience.opaque_way import OpaqueRefusal, OpaqueWay
from waypoint.upstream.endpoints import service_protocol
from waypoint.upstream.target import Target

log = logging.getLogger(__name__)


class OpaqueRoutes(Protocol):
    """Where connections that are no HTTP go."""

    def wants_server_name(self, origin: Origin) -> bool:
        """Whether the name that a TLS client asks for decides."""

    def pick_opaque(self, origin: Origin, server_name: str) -> OpaqueWay | OpaqueRefusal | None:
        """An endpoint, or None if policy or routes leave none; a limit may refuse it."""


class SocketOpener(Protocol):
    """Opens a socket to an endpoint."""

    async def open_socket(self, target: Target) -> socket.socket: ...


class Lane(Protocol):
    """See `waypoint.lane.host`."""

    def serve(self, sock: socket.socket, origin: Origin, initial: bytes) -> None: ...


class Front:
    """Serves connections of one worker.

    Args:
        protocol: the appProtocol of what was dialled, empty if nothing says it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        exchanges: Exchanges,
        limits: ProxyLimits,
        engine: TunnelEngine,
        opaque: OpaqueRoutes,
        opener: SocketOpener,
        flushes: FlushQueue,
        relays: OpaqueConnections | None = None,
        protocol: Callable[[Origin], str] = service_protocol,
    ) -> None:
        self._protocol = protocol
        self._flushes = flushes
        self._relays = unrecorded() if relays is None else relays
        self._loop = loop
        self._exchanges = exchanges
        self._limits = limits
        self._engine = engine
        self._opaque = opaque
        self._opener = opener
        self.servers: set[Http1Server | Http2Server] = set()
        self.lane: Lane | None = None
        """Takes HTTP/1 first, where there is one."""
        self.h2_lane: Http2Lane | None = None
        """Moves requests of HTTP/2, where there is one."""

    async def serve(self, sock: socket.socket, origin: Origin) -> None:
        """Take a connected socket; returns once its codec has it."""
        try:
            spoken, initial = await self._sniff(sock, origin)
        except OSError as error:
            log.info("%s went away: %s", origin.client, error)
            sock.close()
            return
        if spoken is Spoken.OPAQUE:
            await self._relay(sock, origin, initial)
            return
        if spoken is Spoken.HTTP2:
            limits = self._limits
            closed = self.servers.discard
            server = Http2Server(self._loop, self._exchanges, origin, limits, closed, self.h2_lane)
            await self._attach(server, sock, origin, initial)
        elif self.lane is not None:
            try:
                self.lane.serve(sock, origin, initial)
            except OSError as error:
                log.error("%s", error)
                sock.close()
        else:
            await self.serve_http1(sock, origin, initial)

    async def serve_http1(
        self,
        sock: socket.socket,
        origin: Origin,
        initial: bytes,
        exchanges: Exchanges | None = None,
    ) -> None:
        """Serve a connection that speaks HTTP/1, of which `initial` was read."""
        server = Http1Server(
            self._loop,
            exchanges or self._exchanges,
            origin,
            self._limits,
            self.servers.discard,
            self._flushes,
        )
        await self._attach(server, sock, origin, initial)

    async def _attach(
        self, server: Http1Server | Http2Server, sock: socket.socket, origin: Origin, initial: bytes
    ) -> None:
        self.servers.add(server)
        try:
            await attach(self._loop, sock, server, initial)
        except OSError as error:
            self.servers.discard(server)
            sock.close()
            log.info("%s went away: %s", origin.client, error)
            return

    async def _sniff(self, sock: socket.socket, origin: Origin) -> tuple[Spoken, bytes]:
        known = known_protocol(self._protocol(origin))
        if known is Known.OPAQUE:
            return Spoken.OPAQUE, b""
        limit = (
            self._limits.sniff_timeout_s
            if known is Known.NOTHING
            else self._limits.header_timeout_s
        )
        data = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while len(data) < SNIFF_BYTES:
                    more = await self._loop.sock_recv(sock, SNIFF_BYTES - len(data))
                    data += more
                    spoken = classify(data)
                    if spoken is not None or not more:
                        return spoken or Spoken.OPAQUE, data
        if known is Known.HTTP or PREFACE.startswith(data[:3] or b"-"):
            return Spoken.HTTP1, data
        return Spoken.OPAQUE, data

    async def _read_hello(self, sock: socket.socket, data: bytes) -> tuple[str, bytes]:
        """Read on until a TLS client has named its server. Raises `OSError`, `TimeoutError`."""
        async with asyncio.timeout(self._limits.header_timeout_s):
            while (name := server_name(data)) is None:
                more = await self._loop.sock_recv(sock, HELLO_BYTES)
                if not more:
                    return "", data
                data += more
        return name, data

    async def _relay(self, sock: socket.socket, origin: Origin, initial: bytes) -> None:
        name = ""
        if self._opaque.wants_server_name(origin):
            try:
                name, initial = await self._read_hello(sock, initial)
            except (OSError, TimeoutError) as error:
                log.info("%s named no server: %s", origin.client, error or "nothing was sent")
                sock.close()
                return
        way = self._opaque.pick_opaque(origin, name)
        if not isinstance(way, OpaqueWay):
            log.info("%s: no endpoint for a connection of %s", origin.dialled, origin.client)
            sock.close()
            self._relays.refused(origin, None, "no endpoint", refusal=way)
            return
        try:
            upstream = await self._dial_opaque(way, initial)
        except (MeshnodeError, OSError, TimeoutError) as error:
            log.info("%s: %s", way.target.key.address, error)
            sock.close()
            way.failed(self._relays.clocks.now())
            self._relays.refused(origin, way.target, str(error) or "no connection in time")
            return
        relayed = self._relays.begin(origin, way)
        relayed.relay = self._engine.relay(sock, upstream, relayed)

    async def _dial_opaque(self, way: OpaqueWay, initial: bytes) -> socket.socket:
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                upstream = await self._opener.open_socket(way.target)
                if initial:
                    await self._loop.sock_sendall(upstream, initial)
                return upstream
        except asyncio.CancelledError:
            way.close(self._relays.clocks.now())
            raise

    def drain(self) -> None:
        """Close every connection after what it is doing."""
        for server in list(self.servers):
            server.drain()
