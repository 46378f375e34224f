"""Mirrored requests with their bodies; a mirror that fails, hangs or is slow costs nothing."""

from __future__ import annotations

import asyncio

from mesh.http1.message import RequestHead
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.connection import Party
from tests.contract.http1.exchanges import read_request
from tests.contract.http1.stage import PORT, Handler, Stage, run, serving, stage
from waypoint.contract import Origin
from waypoint.limits import ProxyLimits
from waypoint.routing.plan import Forward, Reply
from waypoint.upstream.endpoints import Endpoints
from waypoint.upstream.target import Group, Speaks, Target, TargetKey

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
NOBODY = 1


class MirroringRouter:
    """Forwards to the service, with a copy to other ports."""

    def __init__(self, endpoints: Endpoints, ports: tuple[int, ...]) -> None:
        self._endpoints = endpoints
        self._groups = tuple(self._group(port) for port in ports)

    def _group(self, port: int) -> Group:
        address = SocketAddress(parse_ip("127.0.0.1"), port)
        key = TargetKey(address=address, tunnel=None, expected=frozenset())
        target = Target(key, Party())
        return Group(name="mirror", targets=(target,), speaks=Speaks.HTTP1)

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply:
        assert origin.service is not None
        group = self._endpoints.service(origin.service.key, PORT, 4)
        assert group is not None
        return Forward(group=group, mirrors=self._groups)


def noting(found: list[bytes]) -> Handler:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await read_request(reader)
            found.append(head.split(b"\r\n")[0] + b" " + body)
            writer.write(OK)

    return serve


async def settled(here: Stage) -> None:
    """Until no copy is under way."""
    async with asyncio.timeout(20):
        while here.proxy.mirrors.active:  # noqa: ASYNC110 - nothing tells a test of the last one
            await asyncio.sleep(0.01)


def test_copies_carry_the_body_however_it_is_framed() -> None:
    async def main() -> None:
        main_got: list[bytes] = []
        copied: list[bytes] = []
        async with (
            serving(noting(copied)) as port,
            stage(noting(main_got), router=lambda e: MirroringRouter(e, (port, port))) as here,
        ):
            post = b"POST /l HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\n\r\nhello"
            chunked = b"POST /c HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n"
            for ask in (
                b"GET / HTTP/1.1\r\nHost: w\r\n\r\n",
                post,
                chunked + b"2\r\nhi\r\n0\r\n\r\n",
            ):
                assert (await here.ask(ask)).endswith(b"ok")
            await settled(here)
            assert len(main_got) == 3
            assert sorted(copied) == sorted(main_got * 2)

    run(main())


def test_a_large_body_reaches_a_mirror_that_reads_it() -> None:
    async def main() -> None:
        sizes: list[int] = []

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, body = await read_request(reader)
            sizes.append(len(body))
            writer.write(OK)
            await reader.read()

        size = 3 << 20
        async with (
            serving(count) as port,
            stage(count, router=lambda e: MirroringRouter(e, (port,))) as here,
            await here.connect() as client,
        ):
            client.send(b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size >> 16):  # in step with the socket, as a client sends
                client.send(bytes(1 << 16))
                await client.writer.drain()
            assert await client.until(b"\r\n\r\nok")
            await settled(here)
            assert sizes.count(size) >= 1
            assert len(sizes) <= 2

    run(main())


def test_a_mirror_that_is_gone_hangs_or_never_reads_costs_the_request_nothing() -> None:
    async def main() -> None:
        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        size = 24 << 20

        async def drain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            left = size
            while left:
                left -= len(await reader.read(1 << 20))
            writer.write(OK)

        async with (
            serving(never) as port,
            stage(drain, router=lambda e: MirroringRouter(e, (port, NOBODY))) as here,
            await here.connect() as client,
        ):
            client.send(b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size >> 20):
                client.send(bytes(1 << 20))
                await client.writer.drain()
            assert await client.until(b"\r\n\r\nok")
            # Neither copy could hold so much: both were given up long before the end.
            assert here.proxy.mirrors.active == 0

    run(main())


def test_copies_at_once_are_bounded() -> None:
    async def main() -> None:
        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        limits = ProxyLimits(mirror_copies=5)
        async with (
            serving(never) as port,
            stage(noting([]), router=lambda e: MirroringRouter(e, (port,)), limits=limits) as here,
            await here.connect() as client,
        ):
            for _ in range(8):
                client.send(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n")
                assert await client.until(b"\r\n\r\nok")
            assert (here.proxy.mirrors.active, here.proxy.mirrors.dropped) == (5, 3)
            here.proxy.mirrors.cancel_all()
            assert here.proxy.mirrors.active == 0

    run(main())
