"""The HTTP/2 front end against the specification's sections, and against h2spec where it is."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import h11
import pytest
from hpack import Decoder

from tests.contract.http1.stage import Client, Stage, run, stage
from tests.contract.waypoint import h2_frames as f
from tests.contract.waypoint.h2_table import CASES, Case, Kind

H2SPEC = shutil.which("h2spec")
H2SPEC_ALLOWED = {
    "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
    "closed: Sends a DATA frame after sending RST_STREAM frame",
    "closed: Sends a DATA frame",
}
"""The first sends 20 kB and takes 16 kB for the limit, whatever SETTINGS say. RFC 9113 §5.1 lets
a server ignore what comes on a closed stream, which the other two do not."""


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that answers every request with five bytes."""
    link = h11.Connection(h11.SERVER)
    while True:
        try:
            event = link.next_event()
        except h11.RemoteProtocolError:
            return  # the proxy gave a request up
        if event is h11.NEED_DATA:
            link.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            is_head = event.method == b"HEAD"
        elif isinstance(event, h11.EndOfMessage):
            response = h11.Response(status_code=200, headers=[("content-length", "5")])
            writer.write(link.send(response) or b"")
            if not is_head:
                writer.write(link.send(h11.Data(data=b"hello")) or b"")
            link.send(h11.EndOfMessage())
            link.start_next_cycle()
        elif isinstance(event, h11.ConnectionClosed):
            return


@dataclass(slots=True)
class Seen:
    """What the server said."""

    status: dict[int, int] = field(default_factory=dict)
    data: dict[int, list[bytes]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    resets: dict[int, int] = field(default_factory=dict)
    goaway: int | None = None
    pong: bool = False
    closed: bool = False


class Peer:
    """A client made of frames."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._decoder = Decoder()
        self.seen = Seen()

    def send(self, frames: bytes) -> None:
        self._client.send(frames)

    async def read(self) -> None:
        """Take one frame."""
        try:
            head = await self._client.exactly(9)
            payload = await self._client.exactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.seen.closed = True
            return
        self._note(head[3], head[4], int.from_bytes(head[5:], "big"), payload)

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        seen = self.seen
        match kind:
            case f.HEADERS:
                fields = dict(self._decoder.decode(payload, raw=True))
                seen.status[stream] = int(fields.get(b":status", b"0"))
            case f.DATA:
                seen.data.setdefault(stream, []).append(payload)
            case f.RST_STREAM:
                seen.resets[stream] = int.from_bytes(payload, "big")
            case f.GOAWAY:
                seen.goaway = int.from_bytes(payload[4:8], "big")
            case f.PING if flags & f.ACK and payload == f.MARK:
                seen.pong = True
        if kind in (f.HEADERS, f.DATA) and flags & f.END_STREAM:
            seen.ended.add(stream)

    async def until_end_of(self, stream: int) -> None:
        while not (stream in self.seen.ended or self.seen.closed):
            await self.read()

    async def until_pong_or_close(self) -> None:
        while not (self.seen.pong or self.seen.closed):
            await self.read()

    async def until_close(self) -> None:
        while not self.seen.closed:
            await self.read()


@contextlib.asynccontextmanager
async def peer(here: Stage, hello: bytes = f.HELLO) -> AsyncIterator[Peer]:
    async with Client(*await asyncio.open_connection("127.0.0.1", here.port_h2)) as client:
        found = Peer(client)
        found.send(hello)
        yield found


async def check(here: Stage, case: Case) -> None:
    start = b"INVALID CONNECTION PREFACE\r\n\r\n" if "none" in case.what else f.HELLO
    async with peer(here, start) as client:
        client.send(case.frames + f.ping())
        seen = client.seen
        match case.kind:
            case Kind.ANSWERED:
                await client.until_end_of(1)
                await client.until_pong_or_close()
                assert seen.status.get(1) == 200, seen
                assert (seen.pong, seen.goaway, seen.closed) == (True, None, False), seen
            case Kind.LIVES:
                await client.until_pong_or_close()
                assert (seen.pong, seen.goaway, seen.closed) == (True, None, False), seen
                assert not seen.resets, seen
            case Kind.STREAM:
                await client.until_pong_or_close()
                assert (seen.pong, seen.goaway, seen.closed) == (True, None, False), seen
                assert set(seen.resets.values()) <= set(case.codes), seen
                assert seen.resets, seen
                assert 200 not in seen.status.values(), seen
            case Kind.CONNECTION:
                await client.until_close()
                assert seen.goaway in case.codes, seen
                assert not seen.pong, seen
            case Kind.OVER:
                await client.until_close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_section(case: Case) -> None:
    async def main() -> None:
        async with stage(hello) as here:
            await check(here, case)

    run(main())
