"""Giving a connected socket, of which something was read already, to a protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast


class _Gate(asyncio.Protocol):
    """Holds what arrives until the protocol is in place: one piece, then it stops reading.

    Not the protocol itself: until a connection is attached wholly, uvloop neither honours
    `pause_reading` nor closes the socket of a transport that is closed.
    """

    def __init__(self, initial: bytes) -> None:
        self._held = [initial] if initial else []
        self._at_end = self._is_lost = False
        self._error: Exception | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._held.append(data)
        if self._transport is not None:
            self._transport.pause_reading()  # a fast sender fills megabytes within one turn

    def eof_received(self) -> bool:
        self._at_end = True
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost, self._error = True, error

    def open(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        made: Callable[[], None] | None,
    ) -> None:
        """Hand over what came, in its order."""
        if not self._is_lost:
            transport.resume_reading()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if made is not None:
            made()
        if self._held:
            protocol.data_received(b"".join(self._held))
        if self._at_end and not transport.is_closing() and not protocol.eof_received():
            transport.close()
        if self._is_lost:
            protocol.connection_lost(self._error)


async def attach(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    protocol: asyncio.Protocol,
    initial: bytes,
    made: Callable[[], None] | None = None,
) -> None:
    """Begin with `initial`; `made` is called before it, and after `connection_made`.

    Raises `OSError`; the socket is the caller's then.
    """
    gate = _Gate(initial)
    if sock.family == socket.AF_UNIX:
        transport, _ = await loop.create_unix_connection(lambda: gate, sock=sock)
    else:
        transport, _ = await loop.create_connection(lambda: gate, sock=sock)
    gate.open(transport, protocol, made)
