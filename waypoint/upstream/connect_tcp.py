"""Plain TCP to endpoints: those outside the mesh, and loopback in tests and benchmarks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from mesh.errors import UpstreamError
from waypoint.upstream.connect_tls import TlsContexts
from waypoint.upstream.target import Target

P = TypeVar("P", bound=asyncio.Protocol)


class TcpConnector:
    """See `waypoint.upstream.pool.Connector`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tls = TlsContexts()

    async def connect(self, target: Target, factory: Callable[[], P]) -> P:
        address, tls = target.key.address, target.key.tls
        try:
            transport, protocol = await self._loop.create_connection(
                factory,
                str(address.ip),
                address.port,
                ssl=None if tls is None else self._tls.get(tls),
                server_hostname=None if tls is None else tls.server_name,
            )
        except OSError as error:
            raise UpstreamError(f"{address}: {error.strerror or error}") from error
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return protocol
