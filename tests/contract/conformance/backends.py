"""Servers that tell what they got: HTTP/1.1 and HTTP/2 on one port, by hand and by `h2`."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import h2.config
import h2.connection
import h2.events

from tests.support.certs import TestCa, spiffe
from tests.unit.mesh.routing.conformance.model import Play

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WHO = b"who are you?\r\n\r\n"
"""Asked by connections that are no HTTP; the answer is the backend's name."""
_CALL_OK = [(":status", "200"), ("content-type", "application/grpc")]
Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """A request as a backend saw it."""

    backend: str
    method: str
    target: str
    host: str
    protocol: str
    headers: Fields


@dataclass(slots=True)
class Board:
    """What all backends of one case share.

    Attributes:
        reply: headers that they send.
        plays: what they do with the next requests; afterwards they answer 200.
    """

    reply: Fields = ()
    plays: list[Play] = field(default_factory=list)
    got: list[Got] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, got: Got) -> Play:
        """Note a request; say what to do with it."""
        self.got.append(got)
        self.counts[got.backend] += 1
        self.changed.set()
        return self.plays.pop(0) if self.plays else Play()

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until requests make a condition true."""
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Backend:
    """One server; an upgrade is granted and echoed."""

    def __init__(self, name: str, board: Board) -> None:
        self._name = name
        self._board = board

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            first = await reader.readuntil(b"\r\n\r\n")
            if first == WHO:
                writer.write(self._name.encode())
            elif PREFACE.startswith(first):
                await self._serve_http2(reader, writer, first)
            else:
                await self._serve_http1(reader, writer, first)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the proxy is done with the connection
        finally:
            writer.close()

    async def _serve_http1(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, block: bytes
    ) -> None:
        while True:
            first, *lines = block[:-4].decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            fields = tuple((n, v) for n, _, v in (line.partition(": ") for line in lines))
            headers = dict(fields)
            await reader.readexactly(int(headers.get("content-length", "0")))
            got = Got(
                backend=self._name,
                method=method,
                target=target,
                host=headers["host"],
                protocol="HTTP/1.1",
                headers=fields,
            )
            play = self._board.take(got)
            if await self._plays_a_fault(play, writer):
                return
            if headers.get("upgrade") == "websocket":
                await _echo(reader, writer)
                return
            text = b"" if method == "HEAD" else json.dumps({"backend": self._name}).encode()
            fields_out = "".join(f"{name}: {value}\r\n" for name, value in self._board.reply)
            head = f"HTTP/1.1 {play.status} -\r\ncontent-length: {len(text)}\r\n{fields_out}\r\n"
            writer.write(head.encode("latin-1") + text)
            block = await reader.readuntil(b"\r\n\r\n")

    async def _plays_a_fault(self, play: Play, writer: asyncio.StreamWriter) -> bool:
        if play.delay_s:
            await asyncio.sleep(play.delay_s)
        if play.reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: a reset, not a FIN
            writer.transport.abort()
        return play.reset

    async def _serve_http2(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes
    ) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        link = h2.connection.H2Connection(config)
        link.initiate_connection()
        data = first
        heads: dict[int, Fields] = {}
        while data:
            for event in link.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id] = tuple(
                        (str(name), str(value)) for name, value in event.headers
                    )
                elif isinstance(event, h2.events.DataReceived):
                    link.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self._answer_http2(link, event.stream_id, heads.pop(event.stream_id))
            writer.write(link.data_to_send())
            data = await reader.read(65536)

    def _answer_http2(self, link: h2.connection.H2Connection, stream: int, fields: Fields) -> None:
        headers = dict(fields)
        got = Got(
            backend=self._name,
            method=headers[":method"],
            target=headers[":path"],
            host=headers[":authority"],
            protocol="HTTP/2",
            headers=tuple(item for item in fields if not item[0].startswith(":")),
        )
        play = self._board.take(got)
        reply = [*self._board.reply, ("x-backend", self._name)]
        if headers.get("content-type", "").startswith("application/grpc"):
            link.send_headers(stream, [*_CALL_OK, *reply])
            link.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        else:
            link.send_headers(stream, [(":status", str(play.status)), *reply], end_stream=True)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    )
    while data := await reader.read(65536):
        writer.write(data)


@asynccontextmanager
async def running(name: str, address: str, board: Board) -> AsyncIterator[tuple[int, int]]:
    """Serve on two free ports of an address, the second with TLS."""
    backend = Backend(name, board)
    plain = await asyncio.start_server(backend.serve, address, 0)
    secure = await asyncio.start_server(backend.serve, address, 0, ssl=_server_context())
    try:
        yield plain.sockets[0].getsockname()[1], secure.sockets[0].getsockname()[1]
    finally:
        plain.close()
        secure.close()


@cache
def _server_context() -> ssl.SSLContext:
    """A certificate that nobody checks: that TLS passes through unopened is what matters."""
    credentials = TestCa().issue(spiffe("echo"), dns_names=("echo",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(credentials.svid.chain_pem)
        key.write_bytes(credentials.svid.key_pem)
        context.load_cert_chain(chain, key)
    return context
