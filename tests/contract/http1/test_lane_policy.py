"""Requests that the lane has under way when policy changes: cut, answered, or left alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from mesh.http1.message import Headers, RequestHead
from tests.contract.http1.laned import USE_LANE
from tests.contract.http1.stage import Client, Stage, run, stage
from tests.contract.http1.test_lane import get, lane_of, served
from waypoint.contract import Origin
from waypoint.routing.plan import Marks, Reply

SIZE = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
DENIED = Reply(status=403, text="no", details="rbac[x]", marks=Marks(policy="x rule[0]"))


@pytest.fixture(autouse=True)
def lane() -> Iterator[None]:
    token = USE_LANE.set(True)
    yield
    USE_LANE.reset(token)


class Judge:
    """Denies paths."""

    def __init__(self, *paths: bytes) -> None:
        self._paths = paths

    def judge_again(
        self,
        origin: Origin,
        head: RequestHead,
        granted: Headers | None,
        began_at: float | None = None,
    ) -> Reply | None:
        return DENIED if head.target in self._paths else None

    def token_expiry(self, origin: Origin, head: RequestHead) -> float | None:
        return None


class Server:
    """Downloads of which the second half waits, and `/slow`, which is not answered."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.waiting = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1]
            if path == b"/small":
                writer.write(OK)
                continue
            if path != b"/slow":
                writer.write(HEAD + bytes(SIZE // 2))
            self.waiting += 1
            await self.go_on.wait()
            writer.write(bytes(SIZE // 2))


async def begun(here: Stage, server: Server, path: str, count: int) -> Client:
    """A client whose request is under way."""
    client = await here.connect()
    client.send(get(path))
    if path != "/slow":
        await client.until(b"\r\n\r\n")
    async with asyncio.timeout(30):
        while server.waiting < count:  # noqa: ASYNC110 - nothing tells a test of it
            await asyncio.sleep(0.01)
    return client


def test_what_is_denied_now_is_cut_and_the_rest_goes_on() -> None:
    async def main() -> None:
        server = Server()
        async with stage(server.handle) as here, contextlib.AsyncExitStack() as stack:
            lane = lane_of(here)
            async with await here.connect() as first:
                assert await served(first, get("/small")) == 200
            clients = []
            for number, path in enumerate(("/big", "/other", "/slow"), 1):
                client = await begun(here, server, path, number)
                clients.append(await stack.enter_async_context(client))
            big, other, slow = clients
            assert lane.judge_again(Judge()) == 0
            assert lane.judge_again(Judge(b"/big", b"/slow")) == 2
            assert (await slow.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
            with contextlib.suppress(ConnectionResetError):
                assert len(await big.read_all()) < SIZE
            server.go_on.set()
            assert await other.exactly(SIZE) == bytes(SIZE)
            assert await served(other, get("/small")) == 200
            async with asyncio.timeout(30):
                while here.proxy.active:  # noqa: ASYNC110 - nothing tells a test of it
                    await asyncio.sleep(0.01)
            told = {record.path: record for record in here.records}
            assert sorted(told) == ["/big", "/slow"]
            for record in told.values():
                assert (str(record.flag), record.policy) == ("POLICY_CHANGE", "x rule[0]")
                assert record.details == "policy_change: rbac[x]"
            assert (told["/big"].status, told["/slow"].status) == (200, 403)
            assert 0 < told["/big"].bytes_sent < SIZE
            assert {count.status for count in lane.take()} == {200}
            assert lane.judge_again(Judge(b"/big")) == 0

    run(main())
