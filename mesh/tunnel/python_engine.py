"""The tunnel engine in Python: readiness callbacks, OpenSSL by `ssl`, an HTTP/2 session engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from mesh.errors import LocalProtocolError, MeshnodeError
from mesh.http2.contract import Http2Session, SessionSettings
from mesh.http2.select import Engine, new_session
from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.tunnel.connection import ConnectionParts, TunnelConnection
from mesh.tunnel.contexts import ContextCache
from mesh.tunnel.contract import RelayEvents, TunnelEvents, TunnelSettings
from mesh.tunnel.link import make_read_buffers
from mesh.tunnel.peer import verify_peer
from mesh.tunnel.relay import PlainRelay
from mesh.tunnel.tls import TlsChannel, build_context
from mesh.tunnel.windows import first_window

# A client's limit on response headers (istio/ztunnel `proxy/h2/client.rs`); a server's is set.
_CLIENT_HEADER_LIST_BYTES = 16 * 1024


class PythonTunnelEngine:
    """See `mesh.tunnel.contract.TunnelEngine`. Belongs to the loop it was made for."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: TunnelSettings, http2_engine: Engine
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._http2_engine = http2_engine
        self._contexts = ContextCache(build_context)
        self._buffers = make_read_buffers()
        self._tunnels: set[TunnelConnection] = set()
        self._relays: set[PlainRelay] = set()
        self._idle: asyncio.Future[None] | None = None
        self._session_settings = {
            client: SessionSettings(
                client=client,
                stream_window_bytes=first_window(settings),
                # Credit is given back by halves: the other half has to suffice for all streams.
                connection_window_bytes=min(2 * settings.connection_window_bytes, 2**31 - 1),
                max_frame_bytes=settings.max_frame_bytes,
                max_header_list_bytes=min(_CLIENT_HEADER_LIST_BYTES, settings.max_header_list_bytes)
                if client
                else settings.max_header_list_bytes,
                max_concurrent_streams=settings.max_concurrent_streams,
            )
            for client in (True, False)
        }

    def client(
        self,
        sock: socket.socket,
        credentials: Credentials,
        expected: frozenset[SpiffeId],
        events: TunnelEvents,
    ) -> TunnelConnection:
        """Raises `LocalProtocolError` if nobody is expected, `IdentityError` for bad keys."""
        if not expected:
            sock.close()
            raise LocalProtocolError("a tunnel's client must expect at least one identity")
        return self._connect(sock, credentials, expected, events, client=True)

    def server(
        self, sock: socket.socket, credentials: Credentials, events: TunnelEvents
    ) -> TunnelConnection:
        """Raises `IdentityError` for bad keys."""
        return self._connect(sock, credentials, frozenset(), events, client=False)

    def relay(self, first: socket.socket, second: socket.socket, events: RelayEvents) -> PlainRelay:
        relay = PlainRelay(
            self._loop, (first, second), events, self._buffers.cipher, self._relay_ended
        )
        self._relays.add(relay)
        return relay

    @property
    def lanes(self) -> None:
        """Every connection is Python's."""
        return None

    async def aclose(self) -> None:
        for relay in list(self._relays):
            relay.abort("engine closed")
        for tunnel in list(self._tunnels):
            tunnel.close_now("engine closed")
        if self._relays or self._tunnels:
            self._idle = self._loop.create_future()
            await self._idle
        # The last events were scheduled before the end of their connection was.
        await asyncio.sleep(0)

    def _connect(
        self,
        sock: socket.socket,
        credentials: Credentials,
        expected: frozenset[SpiffeId],
        events: TunnelEvents,
        *,
        client: bool,
    ) -> TunnelConnection:
        try:
            context = self._contexts.get(credentials, server=not client)
        except MeshnodeError:
            sock.close()
            raise
        parts = ConnectionParts(
            loop=self._loop,
            settings=self._settings,
            client=client,
            channel=TlsChannel(context, server=not client),
            verify=partial(
                verify_peer,
                trust_domains=credentials.bundle.trust_domains,
                expected=expected,
            ),
            new_session=self._session_maker(client),
            buffers=self._buffers,
            on_closed=self._tunnel_closed,
        )
        tunnel = TunnelConnection(parts, sock, events)
        self._tunnels.add(tunnel)
        return tunnel

    def _session_maker(self, client: bool) -> Callable[[], Http2Session]:
        return partial(new_session, self._session_settings[client], self._http2_engine)

    def _tunnel_closed(self, tunnel: TunnelConnection) -> None:
        self._tunnels.discard(tunnel)
        self._check_idle()

    def _relay_ended(self, relay: PlainRelay) -> None:
        self._relays.discard(relay)
        self._check_idle()

    def _check_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not (self._tunnels or self._relays):
            self._idle.set_result(None)
