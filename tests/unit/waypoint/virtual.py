"""An event loop whose clock is set forward instead of waiting, and pipes instead of sockets.

Everything above them is the real thing: codecs, exchange, pool, routes and policies.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import TypeVar

from mesh.errors import UpstreamError
from mesh.model.address import SocketAddress
from waypoint.upstream.target import Target

P = TypeVar("P", bound=asyncio.Protocol)


class _Selector(selectors.DefaultSelector):
    """Asked to wait, it says how long that would have been."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("nothing will ever happen")
        self.passed += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time passes only where there is nothing to do but to wait."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return 1000.0 + self._virtual.passed


def play(work: Coroutine[None, None, None]) -> None:
    """Run a test's coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work)


class Pipe(asyncio.Transport):
    """One end of a connection in memory."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._peer: Pipe | None = None
        self._paused = self._closing = self._eof = False
        self._waiting: list[bytes] = []

    def join(self, peer: Pipe) -> None:
        self._peer = peer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._peer is not None and not self._closing:
            self._loop.call_soon(self._peer.deliver, bytes(data))

    def deliver(self, data: bytes) -> None:
        if self._paused:
            self._waiting.append(data)
        elif not self._closing:
            self._protocol.data_received(data)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        while self._waiting and not self._paused:
            self.deliver(self._waiting.pop(0))

    def is_reading(self) -> bool:
        return not self._paused

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0  # the peer has everything at once

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)
            if self._peer is not None:
                self._loop.call_soon(self._peer.close)

    def abort(self) -> None:
        self.close()


def connect_pipe(
    loop: asyncio.AbstractEventLoop, client: asyncio.Protocol, server: asyncio.Protocol
) -> Pipe:
    """Connect two protocols; the client's end."""
    ours, theirs = Pipe(loop, client), Pipe(loop, server)
    ours.join(theirs)
    theirs.join(ours)
    server.connection_made(theirs)
    client.connection_made(ours)
    return ours


class PipeConnector:
    """`waypoint.upstream.pool.Connector` to servers in memory; an address without one refuses."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.servers: dict[SocketAddress, Callable[[], asyncio.Protocol]] = {}
        self.dialled = 0

    async def connect(self, target: Target, factory: Callable[[], P]) -> P:
        self.dialled += 1
        server = self.servers.get(target.key.address)
        if server is None:
            raise UpstreamError(f"{target.key.address}: connection refused")
        protocol = factory()
        connect_pipe(self._loop, protocol, server())
        return protocol
