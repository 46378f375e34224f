"""Peers that are slow, endless or many: memory stays bounded, and others are served meanwhile.

Memory is what Python allocates in this process, where proxy and raw sockets run: what the sockets
themselves hold is the kernel's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import tracemalloc
from collections.abc import Iterator

import pytest

from mesh.http1.message import Limits
from tests.contract.http1.laned import USE_LANE
from tests.contract.http1.stage import Stage, answering, run, stage
from tests.contract.waypoint import h2_frames as f
from waypoint.limits import ProxyLimits

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
MIB = 1 << 20


@pytest.fixture(autouse=True, params=[False, True], ids=["codecs", "lane"])
def lane(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test with the Python codecs alone, and with the lane before them."""
    token = USE_LANE.set(request.param)
    yield
    USE_LANE.reset(token)


class Growth:
    """Bytes allocated since the beginning, at most."""

    def __init__(self) -> None:
        self._start = tracemalloc.get_traced_memory()[0]

    @property
    def peak(self) -> int:
        return tracemalloc.get_traced_memory()[1] - self._start


@contextlib.contextmanager
def measured() -> Iterator[Growth]:
    gc.collect()
    tracemalloc.start()
    try:
        yield Growth()
    finally:
        tracemalloc.stop()


async def dial(port: int) -> socket.socket:
    """A raw socket: what it is sent waits in the kernel, not in Python."""
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def still_serves(here: Stage) -> None:
    assert (await here.ask(GET)).startswith(b"HTTP/1.1 200 ")


async def pour(sock: socket.socket, data: bytes, total: int) -> int:
    """Send until the peer takes no more for a while, or closes; returns how much it took."""
    loop = asyncio.get_running_loop()
    sent = 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        while sent < total:
            async with asyncio.timeout(1.0):
                await loop.sock_sendall(sock, data)
            sent += len(data)
    return sent


def test_slow_heads_cost_little_each_and_are_cut() -> None:
    """Slow-loris: 300 connections that send one more byte now and then."""

    async def main() -> None:
        limits = ProxyLimits(header_timeout_s=1.0)
        async with stage(answering(*[OK] * 10), limits=limits) as here:
            with measured() as growth:
                socks = [await dial(here.port) for _ in range(300)]
                for sock in socks:
                    sock.send(b"GET / HTTP/1.1\r\nHost: web\r\nx-slow: " + b"a" * 500)
                await still_serves(here)
                loop = asyncio.get_running_loop()
                for sock in socks:
                    async with asyncio.timeout(30):
                        answer = await loop.sock_recv(sock, 1000)
                    assert answer.startswith(b"HTTP/1.1 408 ")
                    sock.close()
                assert growth.peak < 300 * 32 * 1024
            await still_serves(here)

    run(main())


def test_a_head_that_never_ends_is_cut_at_the_limit() -> None:
    async def main() -> None:
        limits = ProxyLimits(message=Limits(head_bytes=64 * 1024))
        async with stage(answering(OK), limits=limits) as here:
            with measured() as growth, await dial(here.port) as sock:
                sock.send(b"GET / HTTP/1.1\r\nHost: web\r\n")
                await pour(sock, b"x-more: " + b"a" * 1000 + b"\r\n", 64 * MIB)
                assert growth.peak < 8 * MIB
            await still_serves(here)

    run(main())


def test_pipelined_requests_wait_in_the_kernel() -> None:
    async def main() -> None:
        never = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await never.wait()

        async with stage(hang) as here:
            with measured() as growth, await dial(here.port) as sock:
                taken = await pour(sock, GET * 1000, 64 * MIB)
                assert taken < 32 * MIB
                assert growth.peak < 8 * MIB
            never.set()

    run(main())


def test_a_server_that_does_not_read_stops_the_upload() -> None:
    async def main() -> None:
        never = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await never.wait()

        async with stage(hang) as here:
            with measured() as growth, await dial(here.port) as sock:
                sock.send(b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000000\r\n\r\n")
                taken = await pour(sock, bytes(256 * 1024), 256 * MIB)
                assert taken < 64 * MIB
                assert growth.peak < 8 * MIB
            never.set()
            await over(here)

    run(main())


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that sends as long as it is read; its own buffer is small."""
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.set_write_buffer_limits(high=64 * 1024)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
    for _ in range(4000):
        writer.write(bytes(64 * 1024))
        await writer.drain()


async def over(here: Stage) -> None:
    """Until no request is under way any more: the client is gone."""
    async with asyncio.timeout(20):
        while here.proxy.active:  # noqa: ASYNC110 - nothing tells a test of the last one
            await asyncio.sleep(0.02)


async def settled(growth: Growth) -> int:
    """The peak, once it does not rise any more."""
    before = -1
    while before != growth.peak:
        before = growth.peak
        await asyncio.sleep(0.5)
    return before


def test_a_client_that_does_not_read_stops_its_server() -> None:
    async def main() -> None:
        async with stage(endless) as here:
            with measured() as growth, await dial(here.port) as sock:
                sock.send(GET)
                assert await settled(growth) < 8 * MIB
            await over(here)

    run(main())


def test_an_http2_client_with_endless_windows_that_does_not_read() -> None:
    """Ten streams; windows that are open say nothing of a socket that is not read."""

    async def main() -> None:
        async with stage(*[endless] * 2) as here:
            with measured() as growth, await dial(here.port_h2) as sock:
                wide = f.settings((4, 0x7FFFFFFF)) + f.window(0x7FFF0000)
                asks = b"".join(f.headers(stream) for stream in range(1, 21, 2))
                sock.send(f.HELLO + wide + asks)
                assert await settled(growth) < 16 * MIB
            await over(here)

    run(main())


def test_an_http2_client_with_a_closed_window_holds_no_more_than_its_share() -> None:
    async def main() -> None:
        async with stage(*[endless] * 2) as here:
            with measured() as growth, await dial(here.port_h2) as sock:
                asks = b"".join(f.headers(stream) for stream in range(1, 101, 2))
                sock.send(f.HELLO + f.settings((4, 0)) + asks)
                # Fifty streams of high_water_bytes each, and what one read may add.
                assert await settled(growth) < 50 * (256 + 256) * 1024 + 8 * MIB
            await over(here)

    run(main())


def test_a_header_list_beyond_the_limit_ends_its_stream_only() -> None:
    async def main() -> None:
        async with stage(answering(*[OK] * 3)) as here:
            with measured() as growth, await dial(here.port_h2) as sock:
                fields = (*f.GET, *((b"x-%d" % n, b"a" * 100) for n in range(700)))
                data = f.block(fields)
                frames = f.headers(1, (), end=True, flags=0) + b"".join(
                    f.continuation(data[at : at + 16000], last=at + 16000 >= len(data))
                    for at in range(0, len(data), 16000)
                )
                sock.send(f.HELLO)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, frames + f.ping())
                got = b""
                async with asyncio.timeout(10):
                    while f.MARK not in got:
                        got += await loop.sock_recv(sock, 65536)
                assert growth.peak < 8 * MIB
            await still_serves(here)

    run(main())
