"""The lane itself: what it takes, what it gives to Python, and that it asks anew when it must."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from mesh.http1.message import RequestHead
from tests.contract.http1.laned import USE_LANE
from tests.contract.http1.stage import Client, Stage, answering, run, stage
from waypoint.contract import Origin
from waypoint.exchange.forward_headers import IDENTITY_FIELDS
from waypoint.lane.host import Lane
from waypoint.routing.plan import Forward, Reply
from waypoint.routing.service_router import ServiceRouter
from waypoint.upstream.endpoints import Endpoints

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BIG = 64 << 20  # more than the kernel takes on the way


@pytest.fixture(autouse=True)
def lane() -> Iterator[None]:
    """In place of the folder's: these tests need one."""
    token = USE_LANE.set(True)
    yield
    USE_LANE.reset(token)


def lane_of(here: Stage) -> Lane:
    assert here.lane is not None
    return here.lane


def get(path: str = "/", *lines: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: w", *lines, "", "")).encode()


async def served(client: Client, request: bytes = get()) -> int:
    """Send a request; the status of the answer, whose body is of two bytes or denied."""
    client.send(request)
    head = await client.until(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    await client.exactly(length)
    return int(head[9:12])


@dataclass(slots=True)
class Judge:
    """A router that denies one value of a header, and counts how often it was asked."""

    denied: bytes = b"bad"
    asked: list[bytes] = field(default_factory=list)

    def router(self) -> Callable[[Endpoints], _Judging]:
        return lambda endpoints: _Judging(ServiceRouter(endpoints), self)


@dataclass(slots=True)
class _Judging:
    routes: ServiceRouter
    judge: Judge

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply:
        self.judge.asked.append(head.target)
        if (b"x-key", self.judge.denied) in head.headers:
            return Reply(status=403, text="no")
        return self.routes.plan(origin, head)


def test_one_decision_serves_many_requests() -> None:
    async def main() -> None:
        judge = Judge()
        async with stage(answering(*[OK] * 9), router=judge.router()) as here:
            async with await here.connect() as client:
                for number in range(9):
                    assert await served(client, get(f"/a?n={number}", f"x-n: {number}")) == 200
            assert lane_of(here).taken == 9
            assert judge.asked == [b"/a?n=0"]
            (group,) = lane_of(here).take()
            assert (group.count, group.sent, sum(group.buckets)) == (9, 18, 9)

    run(main())


def test_what_policy_looks_at_is_decided_apart() -> None:
    async def main() -> None:
        judge = Judge()
        async with stage(answering(*[OK] * 9), router=judge.router()) as here:
            async with await here.connect() as client:
                assert await served(client, get("/a", "x-key: good")) == 200
                assert await served(client, get("/b", "x-key: good")) == 200
                assert await served(client, get("/a", "X-Key: bad")) == 403
            assert judge.asked == [b"/a", b"/b", b"/a", b"/a"]  # the last one again, by Python

    run(main())


def test_after_a_change_everything_is_decided_anew() -> None:
    async def main() -> None:
        judge = Judge(denied=b"")
        routes = stage(answering(*[OK] * 9), router=judge.router())
        async with routes as here, await here.connect() as client:
            assert await served(client, get("/a", "x-key: v")) == 200
            judge.denied = b"v"
            lane_of(here).forget()
            assert await served(client, get("/a", "x-key: v")) == 403

    run(main())


def test_while_paused_python_serves() -> None:
    async def main() -> None:
        async with stage(answering(*[OK] * 9)) as here:
            lane_of(here).pause(True)
            async with await here.connect() as client:
                assert await served(client) == 200
            assert lane_of(here).taken == 0
            assert len(here.records) == 1

    run(main())


def test_an_unusual_answer_is_given_to_python_and_the_connection_goes_on() -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nx-t: 1\r\n\r\n"
    )

    async def main() -> None:
        async with stage(answering(chunked, OK)) as here:
            async with await here.connect() as client:
                client.send(get())
                answer = await client.until(b"\r\n0\r\nx-t: 1\r\n\r\n")
                assert b"\r\n\r\n2\r\nok\r\n" in answer
                assert await served(client) == 200
            assert lane_of(here).taken == 1
            assert [record.status for record in here.records] == [200, 200]

    run(main())


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 503)])
def test_only_what_may_be_repeated_is_sent_again(method: str, status: int) -> None:
    """The server's connection is used again and ends without an answer."""
    requests: list[bytes] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        requests.append(await reader.readuntil(b"\r\n\r\n"))

    async def main() -> None:
        async with stage(once) as here, await here.connect() as client:
            assert await served(client) == 200
            line = f"{method} / HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n"
            assert await served(client, line.encode()) == status
            assert len(requests) == 2 + (method == "GET")
            (record,) = here.records
            assert record.flag == ("-" if method == "GET" else "UC")

    run(main())


def test_a_server_that_cannot_be_reached_gives_503() -> None:
    async def main() -> None:
        async with stage() as here, await here.connect() as client:
            assert await served(client) == 503
            assert here.records[0].flag == "UH"

    run(main())


def test_a_slow_reader_stops_the_server_and_gets_everything() -> None:
    written = 0
    done = asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG)
        while written < BIG:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536
        writer.close()
        await writer.wait_closed()
        done.set()

    async def main() -> None:
        async with stage(pour) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port, limit=4096)
            writer.write(get())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            before = -1
            while before != written:  # until nothing moves any more
                before = written
                await asyncio.sleep(0.3)
            assert written < BIG
            assert len(await reader.readexactly(BIG)) == BIG
            await done.wait()
            writer.close()
            await writer.wait_closed()
            assert here.records == []

    run(main())


def test_a_drain_ends_idle_connections_and_lets_others_finish() -> None:
    async def main() -> None:
        asked, go = asyncio.Event(), asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await go.wait()
            writer.write(OK)
            await reader.read()

        async with (
            stage(wait) as here,
            await here.connect() as idle,
            await here.connect() as busy,
        ):
            busy.send(get())
            await asyncio.wait_for(asked.wait(), 10)
            lane_of(here).drain()
            assert await idle.read_all() == b""
            go.set()
            assert (await busy.read_all()).endswith(b"connection: close\r\n\r\nok")
            assert lane_of(here).clients == 0

    run(main())


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with stage(answering(*[OK] * 4, seen=seen)) as here:
            answer = await here.ask(get("/1") + get("/2") + get("/3"))
            assert answer.count(b"HTTP/1.1 200 OK") == 3
            assert [head.split()[1] for head in seen] == [b"/1", b"/2", b"/3"]

    run(main())


@pytest.mark.parametrize("name", sorted(IDENTITY_FIELDS)[::7])
def test_no_claim_of_identity_passes_the_lane(name: bytes) -> None:
    """The second request is the lane's own business, if any is."""

    async def main() -> None:
        seen: list[bytes] = []
        async with stage(answering(OK, OK, OK, seen=seen)) as here, await here.connect() as client:
            assert await served(client, get()) == 200
            claim = f"{name.decode().title()}: evil"
            for line in (claim, claim.upper()):
                assert await served(client, get("/", line)) == 200
        assert len(seen) == 3
        assert b"evil" not in b"".join(seen).lower()

    run(main())
