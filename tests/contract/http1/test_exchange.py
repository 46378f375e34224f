"""Requests and responses through the proxy, byte by byte, over raw sockets."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from mesh.http1.message import Headers
from tests.contract.http1.exchanges import GET, OK, FixedRouter, one_record
from tests.contract.http1.stage import answering, run, stage


def test_pipelined_requests_are_answered_in_order_on_reused_connections() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                seen.append(head.split()[1])
                body = seen[-1]
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

        async with stage(serve) as here, await here.connect() as client:
            paths = [b"/%d" % number for number in range(20)]
            client.send(b"".join(b"GET %b HTTP/1.1\r\nHost: w\r\n\r\n" % path for path in paths))
            for path in paths:
                assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert await client.exactly(len(path)) == path
            assert seen == paths
            assert connections == 1

    run(main())


def test_bytes_after_a_request_that_closes_are_not_served() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with stage(answering(OK, OK, seen=seen)) as here:
            closing = b"GET /a HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n"
            answer = await here.ask(closing + GET)
            assert answer.count(b"HTTP/1.1 200") == 1
            assert len(seen) == 1

    run(main())


@pytest.mark.parametrize(
    ("method", "answer", "wanted"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b"content-length: 100"),
        (b"GET", b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n", b"204 No Content"),
        (b"GET", b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", b"204 No"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b"304 Not Modified"),
    ],
    ids=["HEAD", "204 with length", "204 chunked", "304 with length"],
)
def test_answers_without_a_body_leave_the_connection_in_step(
    method: bytes, answer: bytes, wanted: bytes
) -> None:
    async def main() -> None:
        async with stage(answering(answer, OK)) as here, await here.connect() as client:
            client.send(method + b" / HTTP/1.1\r\nHost: w\r\n\r\n")
            head = await client.until(b"\r\n\r\n")
            assert wanted in head
            assert b"chunked" not in head
            if b"204" in wanted:
                assert b"content-length" not in head
            client.send(GET)
            assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200")

    run(main())


def test_a_body_without_length_is_chunked_for_1_1_and_ends_with_the_connection_for_1_0() -> None:
    async def main() -> None:
        until_close = b"HTTP/1.0 200 OK\r\n\r\nhello"
        async with stage(answering(until_close)) as here:
            answer = await here.ask(GET)
            assert b"transfer-encoding: chunked\r\n" in answer
            assert answer.endswith(b"5\r\nhello\r\n0\r\n\r\n")
            answer = await here.ask(b"GET / HTTP/1.0\r\n\r\n")
            assert answer.endswith(b"connection: close\r\n\r\nhello")
            assert b"chunked" not in answer

    run(main())


def test_chunks_and_trailers_pass_in_both_directions() -> None:
    async def main() -> None:
        bodies: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            bodies.append(await reader.readuntil(b"x-sum: 5\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"3;note=1\r\nabc\r\n0\r\nx-sum: 3\r\nContent-Length: 9\r\n\r\n")
            await reader.read()

        async with stage(serve) as here, await here.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(b"5;ext\r\nhello\r\n0\r\nX-Sum: 5\r\nHost: evil\r\n\r\n")
            answer = await client.until(b"x-sum: 3\r\n\r\n")
            assert answer.endswith(b"3\r\nabc\r\n0\r\nx-sum: 3\r\n\r\n")
            assert bodies == [b"5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n"]

    run(main())


def test_expectation_is_met_once_a_server_is_there_and_103_passes() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"expect" not in head
            assert await reader.readexactly(5) == b"hello"
            writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK)
            await reader.read()

        async with stage(serve) as here, await here.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: w\r\nExpect: 100-continue\r\n")
            client.send(b"Content-Length: 5\r\n\r\n")
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"hello")
            assert b"103 Early Hints\r\nlink: </a>" in await client.until(b"\r\n\r\n")
            assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200")

    run(main())


def test_an_early_answer_is_seen_although_the_body_still_flows() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            await writer.drain()

        async with stage(serve) as here, await here.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 1000000\r\n\r\nstart")
            head = await client.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 413")
            assert b"connection: close" in head

    run(main())


def test_a_websocket_becomes_a_byte_tunnel_with_half_close() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"connection: upgrade\r\nupgrade: websocket\r\n" in head
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
            writer.write(b"Connection: Upgrade\r\nsec-websocket-accept: x\r\n\r\nhello")
            while data := await reader.read(100):
                writer.write(data.upper())
            writer.write(b"bye")

        async with stage(serve) as here, await here.connect() as client:
            client.send(b"GET /ws HTTP/1.1\r\nHost: w\r\nConnection: Upgrade\r\n")
            client.send(b"Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly")
            head = await client.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"connection: upgrade\r\nupgrade: websocket\r\n" in head
            assert await client.exactly(10) == b"helloEARLY"
            client.send(b"more")
            assert await client.exactly(4) == b"MORE"
            client.writer.write_eof()
            assert await client.read_all() == b"bye"
            assert one_record(here) == (101, "-", "via_upstream")

    run(main())


def test_an_upgrade_that_is_refused_stays_http() -> None:
    async def main() -> None:
        refused = b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n"
        async with stage(answering(refused, OK)) as here, await here.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: w\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 426")
            client.send(GET)
            assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200")

    run(main())


def test_a_slow_reader_stops_the_server_and_memory_stays_bounded() -> None:
    async def main() -> None:
        total, sent = 64 << 20, 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
            while sent < total:
                writer.write(b"x" * 65536)
                sent += 65536
                await writer.drain()

        async with stage(serve) as here, await here.connect() as client:
            client.send(GET)
            await client.until(b"\r\n\r\n")
            before = -1
            while before != sent:  # until the server makes no headway
                before = sent
                await asyncio.sleep(0.2)
            assert sent < 24 << 20  # socket buffers of two connections, not the body
            got = 0
            while got < total:
                got += len(await client.reader.read(1 << 20))
            assert got == total

    run(main())


def test_a_large_body_arrives_whole_in_both_directions() -> None:
    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            left = 8 << 20
            while left:
                data = await reader.read(65536)
                left -= len(data)
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        async with stage(echo) as here, await here.connect() as client:
            body = bytes(range(256)) * (8 << 12)
            client.send(b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % len(body))

            async def send() -> None:
                client.send(body)
                await client.writer.drain()

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send())
                await client.until(b"\r\n\r\n")
                digest, got = hashlib.sha256(), 0
                while got < len(body):
                    size = int((await client.until(b"\r\n"))[:-2], 16)
                    piece = await client.exactly(size + 2)
                    digest.update(piece[:-2])
                    got += size
            assert digest.digest() == hashlib.sha256(body).digest()

    run(main())


def test_server_sent_events_are_not_held_back() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            await go.wait()
            writer.write(b"data: 1\n\n")
            await reader.read()

        async with stage(serve) as here, await here.connect() as client:
            client.send(GET)
            assert b"text/event-stream" in await client.until(b"\r\n\r\n")
            go.set()
            assert await client.until(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"

    run(main())


def test_response_filters_edit_what_the_client_sees() -> None:
    async def main() -> None:
        def finish(status: int, headers: Headers) -> Headers:
            assert status == 200
            kept = [item for item in headers if item[0] not in (b"x-a", b"x-c")]
            return [*kept, (b"x-a", b"new"), (b"x-b", b"2")]

        answer = b"HTTP/1.1 200 OK\r\nX-A: old\r\nx-b: 1\r\nX-C: 1\r\ncontent-length: 0\r\n\r\n"
        rules = {"finish": finish}
        async with stage(answering(answer), router=lambda e: FixedRouter(e, **rules)) as here:
            head = await here.ask(GET)
            assert b"x-a: new\r\n" in head
            assert b"old" not in head
            assert b"x-b: 1\r\n" in head
            assert b"x-b: 2\r\n" in head
            assert b"x-c" not in head

    run(main())
