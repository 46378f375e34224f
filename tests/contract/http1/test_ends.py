"""How exchanges end that take too long; limits hold for codecs and lane together."""

from __future__ import annotations

import asyncio
import json

import pytest

from mesh.telemetry.request_log import LogMode, RequestLog
from tests.contract.http1.laned import USE_LANE
from tests.contract.http1.observed import Observed
from tests.contract.http1.stage import run, stage
from waypoint.limits import ProxyLimits

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BIG = 64 << 20  # more than the kernel takes on the way
LARGE = 4 << 20


def get(path: str = "/", *lines: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: w", *lines, "", "")).encode()


def test_a_client_that_takes_nothing_does_not_hold_its_server(lane: bool) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG)
            try:
                for _ in range(BIG >> 16):
                    writer.write(b"x" * (1 << 16))
                    await writer.drain()
            finally:
                over.set()

        observed = Observed(log=RequestLog(mode=LogMode.ERRORS_JSON, rate_per_s=None))
        limits = ProxyLimits(write_timeout_s=0.3)
        async with stage(pour, limits=limits, observed=observed) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port, limit=4096)
            writer.write(get("/stuck"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await asyncio.wait_for(over.wait(), 30)
            async with asyncio.timeout(30):
                while not (lines := observed.lines()):  # noqa: ASYNC110 - nobody is told
                    await asyncio.sleep(0.02)
            writer.transport.abort()
            if lane:
                assert here.lane is not None
                assert here.lane.taken == 1
        line = json.loads(lines[0])
        assert (line["response_flags"], line["path"]) == ("SI", "/stuck")
        assert line["response_code_details"] == "http1.write_timeout"

    run(main())


def test_a_slow_client_that_takes_a_little_is_not_given_up(lane: bool) -> None:
    async def main() -> None:
        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG)
            writer.write(b"x" * BIG)
            await writer.drain()

        async with stage(pour, limits=ProxyLimits(write_timeout_s=5.0)) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port, limit=4096)
            writer.write(get())
            await reader.readuntil(b"\r\n\r\n")
            got = 0
            while got < BIG:
                got += len(await asyncio.wait_for(reader.read(1 << 20), 30))
                if got < BIG // 64:
                    await asyncio.sleep(0.01)
            writer.close()
            await writer.wait_closed()

    run(main())


@pytest.mark.parametrize("more", [b"GET /2 HTTP/1.1\r\nHost: w\r\n\r\n", b"x" * 5000])
def test_an_answer_is_not_lost_by_bytes_behind_the_request(lane: bool, more: bytes) -> None:
    """A reset would make the client's kernel drop what it has not given away yet."""

    async def main() -> None:
        asked, go = asyncio.Event(), asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % LARGE + b"x" * LARGE)
            await reader.read()

        async with stage(wait) as here, await here.connect() as client:
            client.send(get("/", "Connection: close"))
            await asyncio.wait_for(asked.wait(), 30)
            client.send(more)
            await client.writer.drain()
            go.set()
            head = await client.until(b"\r\n\r\n")
            assert b"connection: close" in head
            assert len(await client.exactly(LARGE)) == LARGE
            assert await client.read_all() == b""

    run(main())


@pytest.mark.parametrize("first_in_lane", [True, False])
def test_an_endpoint_has_one_limit(first_in_lane: bool) -> None:
    async def main() -> None:
        USE_LANE.set(True)
        asked, go = asyncio.Event(), asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await go.wait()
            writer.write(OK)
            await reader.read()

        plain, unusual = get("/lane"), get("/python", "TE: trailers")
        first, second = (plain, unusual) if first_in_lane else (unusual, plain)
        limits = ProxyLimits(upstream_requests=1)
        async with stage(wait, limits=limits) as here:
            async with await here.connect() as one, await here.connect() as other:
                one.send(first)
                await asyncio.wait_for(asked.wait(), 30)
                other.send(second)
                head = await other.until(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503")
                assert here.records[-1].flag == "UO"
                go.set()
                assert (await one.until(b"ok")).startswith(b"HTTP/1.1 200")
            assert here.lane is not None
            assert here.lane.taken == first_in_lane

    run(main())
