"""A scripted HTTP/2 server, and a client that tells all it saw."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from mesh.errors import RemoteProtocolError
from mesh.http2.contract import (
    DataReceived,
    Event,
    GoawayReceived,
    Headers,
    HeadersReceived,
    Http2Session,
    SessionSettings,
    StreamEnded,
    StreamReset,
)
from mesh.http2.select import new_session

CANCEL, REFUSED, INTERNAL = 0x8, 0x7, 0x2
LIMIT_S = 30.0


def settings(*, client: bool, window: int = 1 << 20) -> SessionSettings:
    return SessionSettings(
        client=client,
        stream_window_bytes=window,
        connection_window_bytes=max(window, 1 << 20),
        max_frame_bytes=16384,
        max_header_list_bytes=1 << 16,
        max_concurrent_streams=100,
    )


@dataclass(slots=True)
class Message:
    """What came on one stream."""

    headers: list[Headers] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def is_over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def path(self) -> bytes:
        return dict(self.headers[0])[b":path"]


class Peer:
    """One connection; whoever waits reads."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        session: Http2Session,
        *,
        consumes: bool = True,
    ) -> None:
        self._reader = reader
        self.writer = writer
        self.session = session
        self.consumes = consumes
        self.unread: set[bytes] = set()
        """Paths of requests whose bodies nobody consumes."""
        self.streams: dict[int, Message] = {}
        self.goaways: list[int] = []
        self.is_closed = False

    async def flush(self) -> None:
        while True:
            out, _ = self.session.take_output()
            if not out:
                break
            self.writer.write(out)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def read(self) -> bool:
        """Take one read in; False at the end."""
        try:
            data = await self._reader.read(65536)
            events = self.session.receive(data) if data else []
        except (ConnectionError, RemoteProtocolError):
            data, events = b"", []
        if not data:
            self.is_closed = True
            return False
        for event in events:
            self._take(event)
        await self.flush()
        return True

    def _take(self, event: Event) -> None:
        if isinstance(event, GoawayReceived):
            self.goaways.append(event.error_code)
        elif isinstance(event, HeadersReceived):
            self.streams.setdefault(event.stream, Message()).headers.append(list(event.headers))
        elif isinstance(event, DataReceived):
            message = self.streams[event.stream]
            message.body += event.data
            if self.consumes and not (self.unread and message.path in self.unread):
                self.session.consume(event.stream, event.flow_bytes)
        elif isinstance(event, StreamEnded):
            self.streams[event.stream].ended = True
        elif isinstance(event, StreamReset):
            self.streams.setdefault(event.stream, Message()).reset = event.error_code

    async def until(self, done: Callable[[], bool]) -> None:
        """Read until it holds, or the connection is over."""
        async with asyncio.timeout(LIMIT_S):
            while not done() and not self.is_closed:
                await self.read()

    async def over(self, stream: int) -> Message:
        """Wait for the end of a message."""
        await self.until(lambda: self.seen(stream).is_over)
        return self.seen(stream)

    def seen(self, stream: int) -> Message:
        return self.streams.get(stream, Message())

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


Answer = Callable[[Peer, int], Awaitable[None]]


@dataclass(slots=True)
class Server:
    """Answers by path; `seen` are the requests that began, in their order."""

    answers: dict[bytes, Answer]
    seen: list[Message] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    settings: SessionSettings = field(default_factory=lambda: settings(client=False))
    unread: set[bytes] = field(default_factory=set)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, new_session(self.settings))
        peer.unread = self.unread
        self.peers.append(peer)
        await peer.flush()
        begun: set[int] = set()
        async with asyncio.TaskGroup() as tasks:
            while await peer.read():
                for stream in sorted(peer.streams.keys() - begun):
                    begun.add(stream)
                    message = peer.streams[stream]
                    self.seen.append(message)
                    tasks.create_task(_answered(self.answers[message.path], peer, stream))


async def _answered(answer: Answer, peer: Peer, stream: int) -> None:
    await answer(peer, stream)
    await peer.flush()


@contextlib.asynccontextmanager
async def client(port: int, *, window: int = 1 << 20, consumes: bool = True) -> AsyncIterator[Peer]:
    """Connect by prior knowledge."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    session = new_session(settings(client=True, window=window))
    peer = Peer(reader, writer, session, consumes=consumes)
    await peer.flush()
    try:
        yield peer
    finally:
        await peer.close()


def request(path: bytes, method: bytes = b"GET", more: Headers = ()) -> Headers:
    return [
        (b":method", method),
        (b":scheme", b"http"),
        (b":authority", b"web.shop"),
        (b":path", path),
        *more,
    ]
