"""Raw clients: HTTP/1.1 written by hand, HTTP/2 by `h2`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import h2.connection
import h2.events

from tests.unit.mesh.routing.conformance.model import Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A response as the client saw it; repeated fields are joined, as in `fold_headers`."""

    status: int
    fields: tuple[tuple[str, str], ...]


class Client(Protocol):
    """One connection that asks one thing after the other."""

    async def ask(self, ask: Ask) -> Reply: ...


class Http1Client:
    """HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, ask: Ask) -> Reply:
        lines = [f"{ask.method} {ask.path} HTTP/1.1", f"Host: {ask.host}"]
        lines += [f"{name}: {value}" for name, value in ask.headers]
        self._writer.write("\r\n".join((*lines, "", "")).encode("latin-1"))
        block = await self._reader.readuntil(b"\r\n\r\n")
        first, *rest = block[:-4].decode("latin-1").split("\r\n")
        fields = tuple((n.lower(), v) for n, _, v in (line.partition(": ") for line in rest))
        status = int(first.split(" ")[1])
        length = next((int(value) for name, value in fields if name == "content-length"), 0)
        if ask.method != "HEAD" and status != 204:
            await self._reader.readexactly(length)
        return Reply(status=status, fields=fields)

    async def upgrade(self, ask: Ask, text: bytes) -> bytes:
        """Switch to WebSocket, send bytes, and return as many as were sent."""
        reply = await self.ask(ask)
        assert reply.status == 101
        self._writer.write(text)
        return await self._reader.readexactly(len(text))


class Http2Client:
    """HTTP/2 with prior knowledge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._link = h2.connection.H2Connection()
        self._link.initiate_connection()

    async def ask(self, ask: Ask) -> Reply:
        link = self._link
        stream = link.get_next_available_stream_id()
        pseudo = [
            (":method", ask.method),
            (":scheme", "http"),
            (":authority", ask.host),
            (":path", ask.path),
        ]
        fields = [(name.lower(), value) for name, value in ask.headers]
        link.send_headers(stream, pseudo + fields, end_stream=True)
        self._writer.write(link.data_to_send())
        got: list[tuple[str, str]] = []
        while True:
            data = await self._reader.read(65536)
            assert data, "the proxy closed the connection"
            for event in link.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    got += [
                        (name.decode(), value.decode("latin-1")) for name, value in event.headers
                    ]
                elif isinstance(event, h2.events.DataReceived):
                    link.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, h2.events.StreamReset):
                    raise AssertionError(f"stream reset by the proxy: {event.error_code}")
                elif isinstance(event, h2.events.StreamEnded):
                    self._writer.write(link.data_to_send())
                    status = int(dict(got)[":status"])
                    return Reply(status=status, fields=tuple(got))
            self._writer.write(link.data_to_send())
