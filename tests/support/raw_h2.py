"""A hostile HTTP/2 peer: TLS as it should be, frames as they should not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

from mesh.model.credentials import Credentials
from mesh.tunnel.tls import build_context

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
ACK, END_STREAM, END_HEADERS = 1, 1, 4


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """RFC 9113 §4.1"""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing or Huffman coding (RFC 7541 §6.2.2)."""
    return b"\0" + _integer(len(name)) + name + _integer(len(value)) + value


def _integer(value: int) -> bytes:
    if value < 127:
        return bytes((value,))
    result, value = bytearray((127,)), value - 127
    while value >= 128:
        result.append(value % 128 + 128)
        value //= 128
    result.append(value)
    return bytes(result)


def request(stream: int, *fields: tuple[bytes, bytes], end: bool = False) -> bytes:
    block = b"".join(literal(name, value) for name, value in fields)
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(HEADERS, block, flags=flags, stream=stream)


CONNECT_FIELDS = ((b":method", b"CONNECT"), (b":authority", b"192.0.2.1:80"))


class RawPeer:
    """A TLS stream of frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def send(self, data: bytes) -> None:
        """Raises `ConnectionError` once the other side has cut the connection."""
        self._writer.write(data)
        await self._writer.drain()

    async def read_frame(self) -> tuple[int, int, int, bytes]:
        """Kind, flags, stream, payload. Raises `IncompleteReadError` at the end."""
        head = await self._reader.readexactly(9)
        payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    async def wait_frame(self, *kinds: int) -> tuple[int, int, int, bytes]:
        while True:
            found = await self.read_frame()
            if found[0] in kinds:
                return found


@contextlib.asynccontextmanager
async def raw_peer(
    sock: socket.socket, credentials: Credentials, *, server: bool = False
) -> AsyncIterator[RawPeer]:
    """Shake hands properly; what follows is the test's."""
    loop = asyncio.get_running_loop()
    context = build_context(credentials, server=server)
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    if server:
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=context)
    else:
        transport, _ = await loop.create_connection(
            lambda: protocol, sock=sock, ssl=context, server_hostname=""
        )
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    try:
        if server:
            assert await reader.readexactly(len(PREFACE)) == PREFACE
        yield RawPeer(reader, writer)
    finally:
        transport.abort()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
