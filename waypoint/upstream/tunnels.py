"""Connections to endpoints in the mesh: HBONE with the waypoint's own identity.

A socket pair joins the tunnel engine, which moves the bytes of a stream, to the HTTP codec.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from mesh.errors import IdentityError, MeshnodeError, UpstreamError
from mesh.hbone.connect import ConnectRequest, build_connect
from mesh.hbone.pool import PoolKey, TunnelPool
from mesh.model.address import SocketAddress
from mesh.model.credentials import Credentials
from mesh.model.workload import WorkloadUid
from mesh.tunnel.contract import End, Headers, Loss, StreamRequest, Tunnel, TunnelEngine
from mesh.tunnel.expired import ExpiredTunnels
from waypoint.upstream.connect_tls import TlsContexts
from waypoint.upstream.target import Target

log = logging.getLogger(__name__)
P = TypeVar("P", bound=asyncio.Protocol)
MAX_TRIES = 3


class OwnCredentials(Protocol):
    """The waypoint's present certificate."""

    def own(self) -> Credentials | None: ...


class _Opening:
    """`StreamEvents` of one connection to an endpoint."""

    def __init__(self, sock: socket.socket, headers: Headers, opened: asyncio.Future[None]) -> None:
        self.sock = sock
        self.headers = headers
        self.opened = opened

    def fail(self, detail: str) -> None:
        self.sock.close()
        if not self.opened.done():
            self.opened.set_exception(UpstreamError(detail))

    def stream_opened(self, headers: Headers) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def stream_refused(self, status: int, headers: Headers, detail: str) -> None:
        meaning = {401: "denied by the destination's policy", 503: "the application is not there"}
        self.fail(
            f"endpoint answered {status}: {meaning.get(status, 'refused')}" if status else detail
        )

    def stream_closed(self, end: End) -> None:
        """The codec's end of the pair notices by itself."""


class _Dialled:
    """`TunnelEvents` of one tunnel to an endpoint; `expires_at`: end of our certificate."""

    def __init__(self, owner: UpstreamTunnels, key: PoolKey, expires_at: float) -> None:
        self._owner = owner
        self._key = key
        self._expires_at = expires_at
        self._up = False

    def tunnel_up(self, tunnel: Tunnel) -> None:
        self._up = True
        expires_at = min(self._expires_at, tunnel.peer_expires_at)
        self._owner.pool.dialled(self._key, tunnel, expires_at)
        self._owner.serve_waiting(self._key)

    def tunnel_draining(self, tunnel: Tunnel) -> None:
        self._owner.pool.lost(self._key, tunnel)

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        request.refuse(400)

    def stream_slot_free(self, tunnel: Tunnel) -> None:
        self._owner.serve_waiting(self._key)

    def tunnel_lost(self, tunnel: Tunnel, loss: Loss) -> None:
        detail = f"tunnel to {self._key.peer}: {loss.detail or loss.reason}"
        self._owner.expired.forget(tunnel)
        if self._up:
            self._owner.pool.lost(self._key, tunnel)
        else:
            log.warning("%s", detail)
            self._owner.dial_failed(self._key, detail)


class UpstreamTunnels:
    """See `waypoint.upstream.pool.Connector`; endpoints outside the mesh get plain TCP."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: TunnelEngine,
        credentials: OwnCredentials,
        spawn: Callable[[Coroutine[None, None, None]], None],
        expired: ExpiredTunnels,
    ) -> None:
        self.expired = expired
        self._tls = TlsContexts()
        self._loop = loop
        self._engine = engine
        self._credentials = credentials
        self._spawn = spawn
        self.pool: TunnelPool[_Opening] = TunnelPool(loop.time)

    async def connect(self, target: Target, factory: Callable[[], P]) -> P:
        sock = await self.open_socket(target)
        try:
            tls = target.key.tls
            context = None if tls is None else self._tls.get(tls)
            name = None if tls is None else tls.server_name
            if sock.family == socket.AF_UNIX:
                _, protocol = await self._loop.create_unix_connection(
                    factory, sock=sock, ssl=context, server_hostname=name
                )
            else:
                _, protocol = await self._loop.create_connection(
                    factory, sock=sock, ssl=context, server_hostname=name
                )
        except OSError as error:
            sock.close()
            raise UpstreamError(f"{target.key.address}: {error}") from error
        return protocol

    async def open_socket(self, target: Target) -> socket.socket:
        """A connected, non-blocking socket to an endpoint. Raises `MeshnodeError`."""
        if target.key.tunnel is None:
            return await dial(self._loop, target.key.address)
        credentials = self._credentials.own()
        if credentials is None:
            raise IdentityError("the waypoint has no valid certificate")
        key = PoolKey(
            WorkloadUid(""), credentials.svid.identity, target.key.tunnel, target.key.expected
        )
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(False)
        headers = build_connect(ConnectRequest(authority=target.key.address))
        opening = _Opening(inner, headers, self._loop.create_future())
        self._send(key, opening)
        try:
            await opening.opened
        except BaseException:
            self.pool.forget_waiter(key, opening)
            outer.close()
            raise
        return outer

    def _send(self, key: PoolKey, opening: _Opening) -> None:
        tunnel = self.pool.take(key)
        if tunnel is not None:
            tunnel.open_stream(opening.headers, opening.sock, opening)
        elif self.pool.wait(key, opening):
            self._spawn(self._dial(key))

    def serve_waiting(self, key: PoolKey) -> None:
        while (tunnel := self.pool.take(key)) is not None:
            opening = self.pool.pop_waiter(key)
            if opening is None:
                return
            tunnel.open_stream(opening.headers, opening.sock, opening)

    async def _dial(self, key: PoolKey) -> None:
        try:
            sock = await dial(self._loop, key.peer)
            credentials = self._credentials.own()
            if credentials is None:
                sock.close()
                raise IdentityError("the waypoint has no valid certificate")
            events = _Dialled(self, key, credentials.svid.not_after)
            self._engine.client(sock, credentials, key.expected, events)
        except MeshnodeError as error:
            self.dial_failed(key, str(error))

    def dial_failed(self, key: PoolKey, detail: str) -> None:
        for opening in self.pool.dial_failed(key):
            opening.fail(detail)

    def retire_expired(self, now: float) -> None:
        """Open no more connections where a certificate has ended; `now` in epoch seconds."""
        for key, tunnel in self.pool.expired(now):
            self.expired.retire(tunnel, now, f"tunnel to {key.peer}")

    def close_idle(self) -> None:
        """End tunnels that nobody used for some minutes."""
        for tunnel in self.pool.idle():
            tunnel.drain(0.0)


async def dial(loop: asyncio.AbstractEventLoop, address: SocketAddress) -> socket.socket:
    """Connect by TCP. Raises `UpstreamError`."""
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, (str(address.ip), address.port))
    except OSError as error:
        sock.close()
        raise UpstreamError(f"{address}: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
    return sock
