"""Hygiene towards servers: bodies where none may be, connections out of step, and what HTTP/2
could smuggle into an HTTP/1.1 request."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import pytest

from tests.contract.http1.stage import Client, answering, run, stage
from tests.contract.waypoint import h2_frames as f

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 45\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2d\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\ncontent-length: 45\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 45\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ],
    ids=["HEAD", "HEAD chunked", "204", "204 with length", "304", "more than content-length"],
)
def test_what_follows_an_answer_is_never_the_next_answer(method: bytes, answer: bytes) -> None:
    """A body after HEAD, 204 or 304 would answer the next request on that connection."""

    async def main() -> None:
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer + EVIL if connections == 1 else OK)
            await reader.read()

        async with stage(serve) as here, await here.connect() as client:
            client.send(method + b" / HTTP/1.1\r\nHost: web\r\n\r\n")
            first = await client.until(b"\r\n\r\n")
            assert b"evil" not in first
            if answer.endswith(b"ok"):
                assert await client.exactly(2) == b"ok"
            client.send(GET)
            assert await client.until(b"\r\n\r\nok")
            assert connections == 2

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
    ],
    ids=["two lengths", "bad size", "chunk too long", "bad name"],
)
def test_a_connection_is_never_used_again_after_an_error_of_framing(answer: bytes) -> None:
    async def main() -> None:
        requests: list[int] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            count = 0
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    count += 1
                    writer.write(answer if not requests else OK)
                    requests.append(count)

        async with stage(serve) as here:
            with contextlib.suppress(ConnectionError):
                assert b"evil" not in await here.ask(GET)
            async with await here.connect() as client:
                client.send(GET)
                assert await client.until(b"\r\n\r\nok")
        assert requests == [1, 1]

    run(main())


@dataclass(frozen=True, slots=True)
class Smuggled:
    """Fields of an HTTP/2 request; whatever comes of it, no server sees another request."""

    name: str
    fields: f.Fields
    body: bytes = b""


def _with(*more: tuple[bytes, bytes]) -> f.Fields:
    return (*f.GET, *more)


def _path(path: bytes) -> f.Fields:
    return (f.GET[0], f.GET[1], (b":path", path), f.GET[3])


def _method(method: bytes) -> f.Fields:
    return ((b":method", method), *f.GET[1:])


def _authority(value: bytes) -> f.Fields:
    return (*f.GET[:3], (b":authority", value))


NEXT = b"GET /evil HTTP/1.1"
SMUGGLED = (
    Smuggled("CRLF in a value", _with((b"a", b"b\r\n\r\n" + NEXT + b"\r\nx: y"))),
    Smuggled("LF in a value", _with((b"a", b"b\n\n" + NEXT))),
    Smuggled("CR in a value", _with((b"a", b"b\r\r" + NEXT))),
    Smuggled("NUL in a value", _with((b"a", b"b\0"))),
    Smuggled("CRLF in a name", _with((b"a: b\r\n\r\n" + NEXT + b"\r\nx", b"y"))),
    Smuggled("colon in a name", _with((b"transfer-encoding: chunked\r\nx", b"y"))),
    Smuggled("colon alone in a name", _with((b"a:b", b"y"))),
    Smuggled("space in a name", _with((b"content-length ", b"5"))),
    Smuggled("upper case in a name", _with((b"Content-Length", b"5"))),
    Smuggled("transfer-encoding", _with((b"transfer-encoding", b"chunked"))),
    Smuggled("connection", _with((b"connection", b"close"))),
    Smuggled("CRLF in the path", _path(b"/ HTTP/1.1\r\nhost: web\r\n\r\n" + NEXT)),
    Smuggled("space in the path", _path(b"/ HTTP/1.1")),
    Smuggled("tab in the path", _path(b"/\tx")),
    Smuggled("fragment in the path", _path(b"/#x")),
    Smuggled("absolute path", _path(b"http://other/")),
    Smuggled("CRLF in the method", _method(b"GET / HTTP/1.1\r\nhost: web\r\n\r\nGET")),
    Smuggled("space in the method", _method(b"GET /evil")),
    Smuggled("lower-case method", _method(b"get")),
    Smuggled("CRLF in the authority", _authority(b"web\r\n\r\n" + NEXT)),
    Smuggled("user in the authority", _authority(b"user@web")),
    Smuggled("path in the authority", _authority(b"web/evil")),
    Smuggled("host that disagrees", _with((b"host", b"other"))),
    Smuggled("two hosts", _with((b"host", b"web"), (b"host", b"web"))),
    Smuggled("content-length below the body", _with((b"content-length", b"1")), b"x" + NEXT),
    Smuggled("content-length above the body", _with((b"content-length", b"90")), NEXT),
    Smuggled("content-length that is no number", _with((b"content-length", b"0x1")), b"x"),
    Smuggled("two content-lengths", _with((b"content-length", b"1"), (b"content-length", b"2"))),
)


@pytest.mark.parametrize("case", SMUGGLED, ids=lambda case: case.name)
def test_no_http2_request_becomes_two_of_http1(case: Smuggled) -> None:
    async def main() -> None:
        heard = bytearray()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                heard.extend(data)

        async with stage(listen) as here, await here.connect(here.port_h2) as client:
            client.send(f.HELLO + f.headers(fields=case.fields, end=not case.body))
            if case.body:
                client.send(f.data(case.body))
            assert await _refused(client)
        # At most a head whose body never came: no server can take that for a request.
        assert b"evil" not in bytes(heard).partition(b"\r\n\r\n")[0]
        if heard:
            assert b"content-length: 90\r\n" in heard or b"content-length: 1\r\n" in heard

    run(main())


async def _refused(client: Client) -> bool:
    """Whether the stream was reset, answered 4xx, or the connection ended."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await client.exactly(9)
            payload = await client.exactly(int.from_bytes(head[:3], "big"))
            if head[3] in (f.RST_STREAM, f.GOAWAY):
                return True
            if head[3] == f.HEADERS:
                # 400 has an index of its own (RFC 7541 appendix A); 405 is spelt out.
                return payload[:1] == b"\x8c" or b"405" in payload
    return True


def test_an_upgrade_happens_only_when_asked_for_and_agreed_to() -> None:
    async def main() -> None:
        unasked = (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        )
        async with stage(answering(unasked + b"\r\n")) as here:
            assert (await here.ask(GET)).startswith(b"HTTP/1.1 502 ")
        other = unasked.replace(b"websocket", b"other") + b"\r\n"
        ask = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        async with stage(answering(other)) as here:
            assert (await here.ask(ask)).startswith(b"HTTP/1.1 502 ")
        seen: list[bytes] = []
        async with stage(answering(OK, seen=seen)) as here:
            await here.ask(ask.replace(b"Connection: upgrade\r\n", b""))
        assert b"upgrade" not in seen[0]  # not for this hop, so not for the next

    run(main())
