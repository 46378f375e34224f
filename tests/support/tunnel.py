"""Record what a tunnel engine reports, and make the sockets it is given."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass

import uvloop

from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.tunnel.contract import (
    End,
    Headers,
    Loss,
    Stream,
    StreamRequest,
    Tunnel,
    TunnelEngine,
    TunnelSettings,
)
from tests.support.certs import TestCa, spiffe

CONNECT = ((b":method", b"CONNECT"), (b":authority", b"192.0.2.1:80"))
CLIENT, SERVER = spiffe("client"), spiffe("server")
DEADLINE_S = 20.0

EngineFactory = Callable[[asyncio.AbstractEventLoop, TunnelSettings], TunnelEngine]


def run(main: Coroutine[None, None, None]) -> None:
    """Run on uvloop with a deadline; an exception in any callback fails the test."""
    failures: list[str] = []

    async def bounded() -> None:
        def note(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
            failures.append(repr(context.get("exception") or context.get("message")))

        asyncio.get_running_loop().set_exception_handler(note)
        async with asyncio.timeout(DEADLINE_S):
            await main

    uvloop.run(bounded())
    assert not failures, failures


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected, non-blocking loopback sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
    return near, far


class App:
    """The application's end of a socket that an engine holds the other end of."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def receive(self, limit: int = 65536) -> bytes:
        return await self._loop.sock_recv(self.sock, limit)

    async def receive_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = await self.receive(min(count - len(data), 1 << 18))
            assert piece, f"ended after {len(data)} of {count} bytes"
            data += piece
        return bytes(data)

    async def receive_all(self) -> bytes:
        data = bytearray()
        while piece := await self.receive(1 << 18):
            data += piece
        return bytes(data)

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class StreamLog:
    """Events of one stream."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[Headers] = loop.create_future()
        self.refused: asyncio.Future[tuple[int, Headers, str]] = loop.create_future()
        self.closed: asyncio.Future[End] = loop.create_future()

    def stream_opened(self, headers: Headers) -> None:
        self.opened.set_result(headers)

    def stream_refused(self, status: int, headers: Headers, detail: str) -> None:
        self.refused.set_result((status, headers, detail))

    def stream_closed(self, end: End) -> None:
        assert not self.refused.done()
        self.closed.set_result(end)


class RelayLog:
    def __init__(self) -> None:
        self.closed: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def relay_closed(self, end: End) -> None:
        self.closed.set_result(end)


class TunnelLog:
    """Events of one tunnel."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.up: asyncio.Future[Tunnel] = loop.create_future()
        self.draining = asyncio.Event()
        self.slot_free = asyncio.Event()
        self.requests = asyncio.Queue[StreamRequest]()
        self.lost: asyncio.Future[Loss] = loop.create_future()

    def tunnel_up(self, tunnel: Tunnel) -> None:
        assert not self.lost.done()
        self.up.set_result(tunnel)

    def tunnel_draining(self, tunnel: Tunnel) -> None:
        self.draining.set()

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        assert self.up.done()
        assert not self.lost.done()
        self.requests.put_nowait(request)

    def stream_slot_free(self, tunnel: Tunnel) -> None:
        assert tunnel.can_open
        self.slot_free.set()

    def tunnel_lost(self, tunnel: Tunnel, loss: Loss) -> None:
        self.lost.set_result(loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A stream with both applications."""

    near: App
    far: App
    client: StreamLog
    server: StreamLog
    client_stream: Stream
    server_stream: Stream


class Pair:
    """Two engines, a client's and a server's side of one tunnel."""

    def __init__(self, factory: EngineFactory, settings: TunnelSettings) -> None:
        loop = asyncio.get_running_loop()
        self.engine = factory(loop, settings)
        self.ca = TestCa()
        self.client = TunnelLog()
        self.server = TunnelLog()
        self.sockets: list[socket.socket] = []

    def connect(
        self,
        *,
        client: Credentials | None = None,
        server: Credentials | None = None,
        expected: SpiffeId = SERVER,
        send_buffer: int = 0,
    ) -> Tunnel:
        """`send_buffer`: bytes of both sockets, so that the kernel takes a part of each write."""
        near, far = tcp_pair()
        if send_buffer:
            for sock in (near, far):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.engine.server(far, server or self.ca.issue(SERVER), self.server)
        return self.engine.client(
            near, client or self.ca.issue(CLIENT), frozenset((expected,)), self.client
        )

    async def join(self) -> Joined:
        """Open one stream and accept it."""
        tunnel = await self.client.up
        near, near_engine = tcp_pair()
        far, far_engine = tcp_pair()
        self.sockets += (near, far)
        client, server = StreamLog(), StreamLog()
        client_stream = tunnel.open_stream(CONNECT, near_engine, client)
        request = await self.server.requests.get()
        server_stream = request.accept(((b"baggage", b"a=b"),), far_engine, server)
        await client.opened
        return Joined(
            near=App(near),
            far=App(far),
            client=client,
            server=server,
            client_stream=client_stream,
            server_stream=server_stream,
        )


@contextlib.asynccontextmanager
async def tunnel_pair(
    factory: EngineFactory, settings: TunnelSettings | None = None
) -> AsyncIterator[Pair]:
    pair = Pair(factory, settings or TunnelSettings())
    try:
        yield pair
    finally:
        await pair.engine.aclose()
        for sock in pair.sockets:
            sock.close()
