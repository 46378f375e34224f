"""WebSocket through the proxy: cases in the manner of the Autobahn suite, echo behind.

Frames are written by hand (RFC 6455 §5), so that also broken ones go through; the server is the
library `websockets`. A proxy is transparent: what a case wants is what it gets without one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from mesh.model.address import SocketAddress, parse_ip
from tests.contract.http1.stage import Client, Stage, run, stage

TEXT, BINARY, CLOSE, PING, PONG, CONTINUE = 1, 2, 8, 9, 10, 0
MASK = b"\x37\xfa\x21\x3d"
UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3
TOO_BIG = 1 << 20


def frame(opcode: int, payload: bytes = b"", *, last: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, masked."""
    first = (0x80 if last else 0) | reserved << 4 | opcode
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    key = (MASK * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return head + MASK + masked


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, and what must come back: messages, pongs, the code that closes (0: none)."""

    name: str
    sent: bytes
    echoed: tuple[bytes, ...] = ()
    pongs: tuple[bytes, ...] = ()
    close: int = 0


def _echo(name: str, opcode: int, payload: bytes) -> Case:
    return Case(name, frame(opcode, payload), echoed=(payload,))


def _broken(name: str, sent: bytes, code: int = 1002, *echoed: bytes) -> Case:
    return Case(name, sent, echoed=echoed, close=code)


def _parts(opcode: int, *parts: bytes) -> bytes:
    frames = [frame(opcode if n == 0 else CONTINUE, p, last=False) for n, p in enumerate(parts)]
    return b"".join(frames[:-1]) + frame(CONTINUE, parts[-1])


def _close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


KOSME = "κόσμε".encode()
CASES = (
    *(_echo(f"1.1 text of {n}", TEXT, b"*" * n) for n in (0, 125, 126, 127, 128, 65535, 65536)),
    *(_echo(f"1.2 binary of {n}", BINARY, b"\xfe" * n) for n in (0, 125, 126, 127, 65535, 65536)),
    Case("2.1 ping without payload", frame(PING), pongs=(b"",)),
    Case("2.2 ping with payload", frame(PING, b"hello"), pongs=(b"hello",)),
    Case("2.4 ping of 125 octets", frame(PING, b"\xfe" * 125), pongs=(b"\xfe" * 125,)),
    _broken("2.5 ping of 126 octets", frame(PING, b"\xfe" * 126)),
    Case("2.7 a pong that nobody asked for", frame(PONG, b"unasked") + frame(TEXT, b"x"), (b"x",)),
    Case(
        "2.10 ten pings",
        b"".join(frame(PING, b"%d" % n) for n in range(10)),
        pongs=tuple(b"%d" % n for n in range(10)),
    ),
    *(_broken(f"3.{n} reserved bits {n:03b}", frame(TEXT, b"x", reserved=n)) for n in range(1, 8)),
    *(_broken(f"4.1 opcode {op}", frame(op, b"x")) for op in (3, 4, 5, 6, 7)),
    *(_broken(f"4.2 opcode {op}", frame(op, b"x")) for op in (11, 12, 13, 14, 15)),
    _broken("5.1 a ping in fragments", frame(PING, b"a", last=False) + frame(CONTINUE, b"b")),
    Case("5.3 text in two fragments", _parts(TEXT, b"frag1", b"frag2"), (b"frag1frag2",)),
    Case(
        "5.6 a ping between fragments",
        frame(TEXT, b"a", last=False) + frame(PING, b"p") + frame(CONTINUE, b"b"),
        (b"ab",),
        (b"p",),
    ),
    _broken("5.9 a continuation of nothing", frame(CONTINUE, b"x")),
    _broken("5.15 text inside of fragments", frame(TEXT, b"a", last=False) + frame(TEXT, b"b")),
    _echo("6.1 empty text", TEXT, b""),
    _echo("6.2 UTF-8", TEXT, "Hello-µ@ßöäüàá-UTF-8!!".encode()),
    Case("6.2.4 UTF-8 cut between octets", _parts(TEXT, KOSME[:3], KOSME[3:]), (KOSME,)),
    _broken("6.3 text that is no UTF-8", frame(TEXT, KOSME + b"\xed\xa0\x80edited"), 1007),
    _broken("6.4 a fragment that is no UTF-8", _parts(TEXT, KOSME, b"\xf4\x90\x80\x80"), 1007),
    Case("7.3 close without a code", frame(CLOSE), close=1005),
    _broken("7.3.2 close of one octet", frame(CLOSE, b"a")),
    Case("7.3.5 the longest reason", _close(1000, b"*" * 123), close=1000),
    _broken("7.5 a reason that is no UTF-8", _close(1000, b"\xce\xba\xed\xa0\x80"), 1007),
    *(
        Case(f"7.7 close with {code}", _close(code), close=code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    ),
    *(
        _broken(f"7.9 close with {code}", _close(code))
        for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999)
    ),
    _echo("9.1 text of 1 MiB", TEXT, b"*" * TOO_BIG),
    Case("9.3 1 MiB in fragments", _parts(TEXT, *(b"*" * 65536,) * 16), (b"*" * TOO_BIG,)),
    _broken("9.9 more than the server takes", frame(BINARY, bytes(TOO_BIG + 1)), 1009),
)


async def _echoing(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[Stage]:
    """A proxy before an echo server."""
    async with serve(
        _echoing, "127.0.0.1", 0, max_size=TOO_BIG, compression=None, ping_interval=None
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with stage(addresses=(SocketAddress(parse_ip("127.0.0.1"), port),)) as here:
            yield here


async def read_frame(client: Client) -> tuple[int, bytes]:
    """Opcode and payload of a server's frame."""
    first, second = await client.exactly(2)
    assert not second & 0x80, "a server masks nothing"
    size = second & 0x7F
    if size > 125:
        size = int.from_bytes(await client.exactly(2 if size == 126 else 8), "big")
    return first & 0x0F, await client.exactly(size)


async def check(client: Client, case: Case) -> None:
    client.send(UPGRADE)
    head = await client.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nsec-websocket-accept: " + ACCEPT in head
    client.send(case.sent)
    echoed: list[bytes] = []
    pongs: list[bytes] = []
    while True:
        if not case.close and len(echoed) + len(pongs) == len(case.echoed) + len(case.pongs):
            client.send(_close(1000, b"done"))
        opcode, payload = await read_frame(client)
        if opcode == CLOSE:
            break
        (pongs if opcode == PONG else echoed).append(payload)
    assert tuple(echoed) == case.echoed
    assert tuple(pongs) == case.pongs
    code = int.from_bytes(payload[:2], "big") if payload else 1005
    assert code == (case.close or 1000)
    with contextlib.suppress(ConnectionError):
        assert await client.read_all() == b""  # and the connection ends


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    async def main() -> None:
        async with echo() as here, await here.connect() as client:
            await check(client, case)

    run(main())


def test_frames_cut_anywhere_arrive_whole() -> None:
    """Autobahn's octet-wise cases: what is sent in pieces, and what comes in one."""

    async def main() -> None:
        async with echo() as here, await here.connect() as client:
            for octet in UPGRADE + frame(TEXT, KOSME) + _parts(TEXT, b"a", b"b"):
                client.send(bytes((octet,)))
                await asyncio.sleep(0)
            await client.until(b"\r\n\r\n")
            assert await read_frame(client) == (TEXT, KOSME)
            assert await read_frame(client) == (TEXT, b"ab")
            client.send(_close(1000))
            assert (await read_frame(client))[0] == CLOSE

    run(main())


def test_many_messages_in_order() -> None:
    async def main() -> None:
        async with echo() as here, await here.connect() as client:
            client.send(UPGRADE)
            await client.until(b"\r\n\r\n")
            for start in range(0, 1000, 100):
                numbers = range(start, start + 100)
                client.send(b"".join(frame(TEXT, b"%d" % n) for n in numbers))
                for number in numbers:
                    assert await read_frame(client) == (TEXT, b"%d" % number)
            client.send(_close(1001))
            assert (await read_frame(client))[0] == CLOSE

    run(main())
