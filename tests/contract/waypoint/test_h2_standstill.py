"""Streams of HTTP/2 that stand still: whom they stop, how long they may, what must not be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mesh.http2.contract import Headers, SessionSettings
from mesh.model.request import RequestFlag
from mesh.telemetry.request_log import LogMode
from tests.contract.http1.laned import USE_H2_LANE
from tests.contract.http1.stage import Stage, run, stage
from tests.contract.waypoint.h2_play import CANCEL, Answer, Peer, Server, client, request
from tests.contract.waypoint.test_h2_lane import (
    GRPC,
    answer,
    begins,
    echo,
    hangs,
    post,
    wait_for,
    with_trailers,
)
from waypoint.limits import ProxyLimits

WINDOW = 65_535
BODY = b"b" * 3 * WINDOW
HUGE = b"h" * (24 << 20)
IMPATIENT = ProxyLimits(write_timeout_s=0.4, body_timeout_s=0.4)
PLAIN: Headers = ()


@pytest.fixture(autouse=True, params=[False, True], ids=["python", "lane"])
def lane(request: pytest.FixtureRequest) -> Iterator[bool]:
    token = USE_H2_LANE.set(request.param)
    yield request.param
    USE_H2_LANE.reset(token)


@asynccontextmanager
async def before(server: Server, limits: ProxyLimits | None = None) -> AsyncIterator[Stage]:
    async with stage(server, app_protocol="kubernetes.io/h2c", limits=limits) as here:
        if here.h2_lane is not None:
            here.h2_lane.watch(LogMode.JSON, tapped=True)
        yield here
        await wait_for(lambda: here.proxy.load == 0)


async def known(server: Server, peer: Peer, path: bytes, given: Answer, more: Headers = ()) -> None:
    """From now on requests for a path are answered so, and the lane's if there is one."""
    server.answers[path] = answer(200)
    for _ in range(2):
        assert (await post(peer, path, b"", more)).ended
    server.answers[path] = given


async def ask(peer: Peer, path: bytes, more: Headers = (), *, end: bool = True) -> int:
    stream = peer.session.send_request(request(path, b"POST", more), end_stream=end)
    await peer.flush()
    return stream


async def answered(peer: Peer, stream: int) -> None:
    await peer.until(lambda: bool(peer.seen(stream).body))


def flags(here: Stage) -> list[tuple[RequestFlag, str]]:
    return [
        (record.flag, record.details)
        for record in here.records
        if record.flag is not RequestFlag.NONE
    ]


# --- clients that take nothing ----------------------------------------------------------------


def test_an_answer_that_its_client_does_not_take_is_given_up(lane: bool) -> None:
    async def main() -> None:
        server = Server({})
        async with before(server, IMPATIENT) as here, client(here.port_h2, window=WINDOW) as peer:
            await known(server, peer, b"/big", answer(200, body=BODY * 20))
            peer.consumes = False
            stream = await ask(peer, b"/big")
            message = await peer.over(stream)
            assert message.reset == CANCEL
            assert len(message.body) == WINDOW
            await wait_for(lambda: server.seen[-1].is_over)
            await wait_for(lambda: bool(flags(here)))
            assert flags(here) == [(RequestFlag.STREAM_IDLE, "http2.write_timeout")]
            assert here.records[-1].status == 200
            peer.consumes = True
            await known(server, peer, b"/ok", answer(200))  # the connection lives

    run(main())


def test_a_client_that_reads_nothing_at_all_is_given_up(lane: bool) -> None:
    async def main() -> None:
        server = Server({})
        async with before(server, IMPATIENT) as here, client(here.port_h2, window=1 << 26) as peer:
            await known(server, peer, b"/huge", answer(200, body=HUGE))
            await ask(peer, b"/huge")
            await wait_for(lambda: bool(flags(here)))
            assert flags(here) == [(RequestFlag.STREAM_IDLE, "http2.write_timeout")]
            await peer.until(lambda: peer.is_closed)

    run(main())


# --- requests that do not go on ----------------------------------------------------------------


def test_a_request_that_does_not_go_on_is_refused(lane: bool) -> None:
    async def main() -> None:
        server = Server({})
        async with before(server, IMPATIENT) as here, client(here.port_h2) as peer:
            await known(server, peer, b"/hang", hangs)
            await known(server, peer, b"/grpc", hangs, GRPC)
            await known(server, peer, b"/begin", begins)
            await known(server, peer, b"/echo", echo)
            call = await ask(peer, b"/grpc", GRPC, end=False)
            begun = await ask(peer, b"/begin", end=False)
            await answered(peer, begun)
            complete = await ask(peer, b"/hang")
            stream = await ask(peer, b"/hang", end=False)
            peer.session.send_data(stream, b"some")
            await peer.flush()
            message = await peer.over(stream)
            assert dict(message.headers[0])[b":status"] == b"408"
            assert message.ended
            await wait_for(lambda: any(seen.reset == CANCEL for seen in server.seen))
            assert (await post(peer, b"/echo", b"x", PLAIN)).body == b"x"
            for other in (call, begun, complete):
                assert not peer.seen(other).is_over
                peer.session.reset(other, CANCEL)
            await peer.flush()
            await wait_for(lambda: here.proxy.load == 0)
            found = [item for item in flags(here) if item[0] is not RequestFlag.DOWNSTREAM_CLOSED]
            assert found == [(RequestFlag.DOWNSTREAM_PROTOCOL_ERROR, "http2.request_timeout")]

    run(main())


# --- what must not be lost ----------------------------------------------------------------------


@pytest.mark.parametrize("trailers", [False, True], ids=["body", "trailers"])
@pytest.mark.parametrize("way", ["drain", "early"])
def test_an_answer_behind_a_closed_window_is_not_lost(lane: bool, way: str, trailers: bool) -> None:
    async def main() -> None:
        server = Server({})
        given = with_trailers(BODY, (b"grpc-status", b"0")) if trailers else answer(200, body=BODY)
        async with before(server) as here, client(here.port_h2, window=WINDOW) as peer:
            await known(server, peer, b"/big", given)
            peer.consumes = False
            stream = await ask(peer, b"/big", end=way == "drain")
            await peer.until(lambda: len(peer.seen(stream).body) == WINDOW)
            await wait_for(lambda: here.proxy.load == 0)  # the exchange is over
            if way == "drain":
                for link in here.clients.http2():
                    link.drain()
                await peer.until(lambda: bool(peer.goaways))
            peer.consumes = True
            peer.session.consume(stream, WINDOW)
            await peer.flush()
            await peer.until(lambda: peer.seen(stream).reset is not None or peer.is_closed)
            message = peer.seen(stream)
            assert bytes(message.body) == BODY
            assert message.ended
            assert len(message.headers) == 1 + trailers
            assert message.reset == (None if way == "drain" else 0)
            assert peer.is_closed == (way == "drain")

    run(main())


# --- who waits for whom -------------------------------------------------------------------------


def roomy(streams: int = 100) -> SessionSettings:
    """A server's: its streams stand still before its connection does."""
    return replace(
        Server({}).settings,
        stream_window_bytes=WINDOW,
        connection_window_bytes=32 << 20,
        max_concurrent_streams=streams,
    )


def test_slow_requests_do_not_stop_others_of_their_connection(lane: bool) -> None:
    async def main() -> None:
        server = Server({}, settings=roomy(), unread={b"/still"})
        async with before(server) as here, client(here.port_h2) as peer:
            await known(server, peer, b"/still", hangs)
            await known(server, peer, b"/echo", echo)
            still = [await ask(peer, b"/still", end=False) for _ in range(12)]
            for stream in still:  # all that they may have under way
                peer.session.send_data(stream, b"s" * (2 << 20))
                await peer.flush()
            body = b"e" * (3 << 20)
            assert (await post(peer, b"/echo", body, PLAIN)).body == body
            for stream in still:
                assert not peer.seen(stream).is_over
                peer.session.reset(stream, CANCEL)
            await peer.flush()

    run(main())


def test_slow_clients_do_not_stop_others_of_the_servers_connection(lane: bool) -> None:
    async def main() -> None:
        server = Server({})
        async with before(server) as here, client(here.port_h2) as peer:
            await known(server, peer, b"/big", answer(200, body=b"b" * (3 << 20)))
            async with client(here.port_h2, window=WINDOW, consumes=False) as slow:
                for _ in range(8):
                    await ask(slow, b"/big")
                await wait_for(lambda: len(server.seen) == 10)
                await slow.until(lambda: sum(len(m.body) for m in slow.streams.values()) >= WINDOW)
                assert len((await post(peer, b"/big", b"", PLAIN)).body) == 3 << 20
                assert len(server.peers) == 1

    run(main())


def test_a_new_server_gets_one_request_until_it_says_how_many_it_takes(lane: bool) -> None:
    async def main() -> None:
        server = Server({b"/late": answer(200)}, settings=roomy(2))
        gate = asyncio.Event()

        async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await gate.wait()
            await server(reader, writer)

        async with stage(late, app_protocol="kubernetes.io/h2c") as here:
            async with client(here.port_h2) as peer:
                streams = [await ask(peer, b"/late") for _ in range(12)]
                await wait_for(lambda: here.proxy.active == 12)
                gate.set()
                for stream in streams:
                    assert dict((await peer.over(stream)).headers[0])[b":status"] == b"200"
            assert {record.tries for record in here.records} == {1}  # none was refused
            assert len(here.records) == 12

    run(main())
