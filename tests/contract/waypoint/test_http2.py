"""HTTP/2 on either side, with the portable `h2` engine and curl as peers."""

from __future__ import annotations

import asyncio

import pytest

from mesh.http1.message import MessageError
from mesh.model.address import SocketAddress, parse_ip
from tests.contract.http1.stage import Stage, answering, run, stage
from waypoint.codec.h2_client import Http2Client
from waypoint.codec.h2_head import read_request

OK = (
    b"HTTP/1.1 200 OK\r\nX-A: b\r\nConnection: x-private\r\nX-Private: 1\r\n"
    b"content-length: 2\r\n\r\nok"
)


async def curl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--noproxy", "*", "--max-time", "60", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()


def test_http2_to_http1() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with stage(answering(OK, seen=seen)) as here:
            url = f"http://127.0.0.1:{here.port_h2}/a?b"
            cookies = ("-H", "cookie: a=1", "-H", "te: trailers")
            answer = await curl("-i", "--http2-prior-knowledge", *cookies, url)
            assert answer.startswith("HTTP/2 200")
            assert "x-a: b" in answer
            assert "x-private" not in answer
            assert "connection" not in answer
            assert answer.endswith("ok")
        head = seen[0]
        assert head.startswith(b"GET /a?b HTTP/1.1\r\n")
        assert b"cookie: a=1\r\n" in head
        assert b"te: trailers\r\n" in head

    run(main())


def test_http1_to_http2_and_http2_to_http2() -> None:
    """The server is another proxy's HTTP/2 front, before a plain server."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = b""
                if b"chunked" in head:
                    body = await reader.readuntil(b"0\r\n\r\n")
                elif b"content-length: 5" in head:
                    body = await reader.readexactly(5)
                text = b"%d" % len(body)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(text) + text)

        async with stage(serve) as inner:
            address = SocketAddress(parse_ip("127.0.0.1"), inner.port_h2)
            async with stage(addresses=(address,), app_protocol="kubernetes.io/h2c") as here:
                answer = await here.ask(
                    b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\n\r\nhello"
                )
                assert answer.startswith(b"HTTP/1.1 200 OK")
                assert answer.endswith(b"\r\n\r\n5")
                url = f"http://127.0.0.1:{here.port_h2}/"
                assert await curl("--http2-prior-knowledge", "-d", "hello", url) == "5"
                assert {record.protocol for record in inner.records} == {"HTTP/2"}

    run(main())


def holds_credit(here: Stage) -> bool:
    """Whether a server was stopped, because its client does not read."""
    clients = [client for target in here.proxy.pool._targets for client in target.multiplexed]
    streams = [s for c in clients if isinstance(c, Http2Client) for s in c._streams.values()]
    return any(stream._owed for stream in streams)


def test_clients_that_leave_in_the_midst_of_answers_take_no_credit_along() -> None:
    """The server's connection is shared: its window must not shrink with each of them."""
    size = 32 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = size if head.startswith(b"GET /big") else 2
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length)
            writer.write(b"x" * length)
            await writer.drain()

    async def main() -> None:
        async with stage(serve) as inner:
            address = SocketAddress(parse_ip("127.0.0.1"), inner.port_h2)
            async with stage(addresses=(address,), app_protocol="kubernetes.io/h2c") as here:
                for _ in range(12):
                    async with await here.connect() as client:
                        client.send(b"GET /big HTTP/1.1\r\nHost: w\r\n\r\n")
                        await client.until(b"\r\n\r\n")
                        async with asyncio.timeout(20):
                            while not holds_credit(here):  # noqa: ASYNC110 - no event tells
                                await asyncio.sleep(0.01)
                        client.writer.transport.abort()
                answer = await here.ask(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n")
                assert answer.endswith(b"xx")

    run(main())


def test_a_response_that_is_cut_resets_the_stream() -> None:
    async def main() -> None:
        cut = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"
        async with stage(answering(cut)) as here:
            answer = await curl("--http2-prior-knowledge", f"http://127.0.0.1:{here.port_h2}/")
            assert "curl: (92)" in answer or "curl: (18)" in answer

    run(main())


@pytest.mark.parametrize("path", ["/a b", "/a#b", "nothing"])
def test_a_path_that_http1_cannot_carry_is_refused(path: str) -> None:
    fields = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"w"),
        (b":path", path.encode()),
    ]
    with pytest.raises(MessageError):
        read_request(fields, True, 100)
