"""The lane under pressure and change: slow readers, floods, policies, drains."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from mesh.model.policy import AuthorizationPolicy, PolicyAction, RequestMatch
from mesh.model.request import RequestFlag
from tests.contract.http1.laned import USE_H2_LANE
from tests.contract.http1.stage import Stage, run, stage
from tests.contract.waypoint.authorizers import exact, policy
from tests.contract.waypoint.h2_play import Peer, Server, client, request
from tests.contract.waypoint.scene import Scene, Script, scene
from tests.contract.waypoint.test_grpc import through
from tests.contract.waypoint.test_h2_lane import (
    ANSWERS,
    GRPC,
    answer,
    begins,
    hangs,
    post,
    send,
    under_way,
    wait_for,
)
from tests.unit.mesh.policy.l7 import build
from waypoint.codec.h2_client import Http2Client
from waypoint.codec.h2_server import Http2Server
from waypoint.limits import ProxyLimits
from waypoint.resilience.crowd import HTTP1_LANE

H2C = "kubernetes.io/h2c"
HUGE = 12 << 20


@pytest.fixture(autouse=True)
def lane() -> Iterator[None]:
    token = USE_H2_LANE.set(True)
    yield
    USE_H2_LANE.reset(token)


@asynccontextmanager
async def laned(
    server: Server, limits: ProxyLimits | None = None, *, known: bytes = b"/ok"
) -> AsyncIterator[tuple[Stage, Peer]]:
    """A client whose requests for `known` are the lane's."""
    async with stage(server, app_protocol=H2C, limits=limits) as here:
        async with client(here.port_h2) as peer:
            for _ in range(2):
                await send(peer, known)
            assert taken(here) == 1
            yield here, peer
        await wait_for(lambda: here.proxy.active == 0 and not under_way(here))


def taken(here: Stage | Scene) -> int:
    assert here.h2_lane is not None
    return here.h2_lane.taken


def upstream(here: Stage) -> list[Http2Client]:
    clients = [client for target in here.proxy.pool._targets for client in target.multiplexed]
    return [found for found in clients if isinstance(found, Http2Client)]


def test_a_client_that_does_not_read_holds_little_and_stops_nobody() -> None:
    async def main() -> None:
        answers = {**ANSWERS, b"/huge": answer(200, body=b"h" * HUGE)}
        async with laned(Server(answers), known=b"/huge") as (here, reader):
            async with client(here.port_h2, window=65535, consumes=False) as slow:
                stream = slow.session.send_request(request(b"/huge"), end_stream=True)
                await slow.flush()
                await slow.until(lambda: len(slow.seen(stream).body) >= 65535)
                # Its server is stopped by flow control; the others have theirs.
                assert len((await send(reader, b"/huge")).body) == HUGE
                assert under_way(here) == 1
                (server,) = upstream(here)
                assert server.session.open_streams == 1
            await wait_for(lambda: not under_way(here))
            assert len((await send(reader, b"/huge")).body) == HUGE

    run(main())


def test_a_server_that_does_not_read_stops_its_client() -> None:
    release = asyncio.Event()

    async def slowly(peer: Peer, stream: int) -> None:
        await release.wait()
        peer.session.send_headers(stream, [(b":status", b"200")], end_stream=True)

    async def main() -> None:
        async with laned(Server({**ANSWERS, b"/slow": slowly})) as (here, peer):
            for server in upstream(here):
                assert server.session.open_streams == 0
            for _ in range(2):
                stream = peer.session.send_request(request(b"/slow", b"POST"))
                await peer.flush()
                peer.session.send_data(stream, b"x" * HUGE)
                for _ in range(50):
                    await peer.flush()
                    await asyncio.sleep(0)
                assert peer.session.unsent_bytes(stream) > HUGE // 2
                release.set()
                assert (await peer.over(stream)).headers
                release.clear()

    run(main())


def test_what_is_denied_now_is_cut_or_refused_and_the_rest_goes_on() -> None:
    async def main() -> None:
        server = Server({**ANSWERS, b"/a": begins, b"/b": hangs, b"/c": begins})
        script = Script(app_protocol=H2C)
        async with scene(server, script=script) as here, client(here.port_h2) as peer:
            streams = {}
            for path in (b"/a", b"/b", b"/c") * 2:
                stream = peer.session.send_request(request(path), end_stream=True)
                streams[path] = stream
                await peer.flush()
                if path != b"/b":
                    await peer.until(lambda s=stream: bool(peer.seen(s).body))  # type: ignore[misc]
                await wait_for(lambda: len(server.seen) == len(peer_streams(server)))
            assert taken(here) == 3
            assert change(here, no("/a", "/b")) == 2
            await peer.until(lambda: all(peer.seen(streams[p]).is_over for p in (b"/a", b"/b")))
            assert peer.seen(streams[b"/a"]).reset is not None
            assert dict(peer.seen(streams[b"/b"]).headers[0])[b":status"] == b"403"
            assert not peer.seen(streams[b"/c"]).is_over
            refused = [r for r in here.records if r.flag is RequestFlag.POLICY_CHANGE]
            assert {record.path for record in refused} == {"/a", "/b"}
            assert dict((await send(peer, b"/a")).headers[0])[b":status"] == b"403"

    run(main())


def peer_streams(server: Server) -> list[int]:
    return [stream for peer in server.peers for stream in peer.streams]


def no(*paths: str) -> AuthorizationPolicy:
    return policy("no-streams", PolicyAction.DENY, build.to(RequestMatch(paths=exact(*paths))))


def change(here: Scene, *policies: AuthorizationPolicy) -> int:
    """New policies, as the worker applies them; how many of the lane's requests were ended."""
    assert here.h2_lane is not None
    old = here.state.snapshot
    found = {item.key: item for item in policies}
    here.state.replace_snapshot(replace(old, revision=old.revision + 1, policies=found))
    here.h2_lane.forget()
    here.proxy.under_way.judge = here.state
    here.proxy.under_way.judge_again()
    return here.h2_lane.judge_again(here.state)


def test_draining_waits_for_what_the_lane_has() -> None:
    async def main() -> None:
        server = Server({**ANSWERS, b"/begin": begins})
        async with laned(server, known=b"/ok") as (here, peer):
            stream = 0
            for _ in range(2):
                stream = peer.session.send_request(request(b"/begin"), end_stream=True)
                await peer.flush()
                await peer.until(lambda s=stream: bool(peer.seen(s).body))  # type: ignore[misc]
            assert here.h2_lane is not None
            (link,) = (link for link in here.h2_lane.links() if isinstance(link, Http2Server))
            link.drain()
            await peer.until(lambda: bool(peer.goaways))
            assert not peer.is_closed
            for number in sorted(server.peers[0].streams)[-2:]:
                server.peers[0].session.send_data(number, b"last", end_stream=True)
            await server.peers[0].flush()
            assert bytes((await peer.over(stream)).body) == b"firstlast"
            await peer.until(lambda: peer.is_closed)

    run(main())


def test_streams_above_the_limit_of_a_server_are_the_pools() -> None:
    async def main() -> None:
        settings = replace(Server(ANSWERS).settings, max_concurrent_streams=3)
        async with laned(Server(ANSWERS, settings=settings)) as (here, peer):
            for _ in range(8):  # twice the limit: the pool dials for the rest
                streams = [
                    peer.session.send_request(request(b"/ok"), end_stream=True) for _ in range(6)
                ]
                await peer.flush()
                for stream in streams:
                    assert bytes((await peer.over(stream)).body) == b"ok"
            assert taken(here) > 1

    run(main())


def test_requests_of_all_sides_have_one_limit() -> None:
    async def main() -> None:
        limits = ProxyLimits(worker_requests=8)  # of which fairness leaves the lane four
        server = Server({**ANSWERS, b"/begin": begins})
        async with laned(server, limits) as (here, peer):

            async def ask() -> int:
                stream = peer.session.send_request(request(b"/begin"), end_stream=True)
                await peer.flush()
                await peer.until(lambda: bool(peer.seen(stream).body))
                return stream

            streams = [await ask() for _ in range(4)]
            assert taken(here) == 4  # all but the first, which taught it
            assert (here.proxy.active, here.proxy.load) == (1, 4)
            streams.append(await ask())
            assert taken(here) == 4
            assert (here.proxy.active, here.proxy.load) == (2, 5)
            for number in streams:
                peer.session.reset(number, 8)
            await peer.flush()
            await wait_for(lambda: here.proxy.load == 0)
            here.proxy.crowd.cells[HTTP1_LANE] = 4
            assert (await send(peer, b"/ok")).ended
            assert taken(here) == 4
            here.proxy.crowd.cells[HTTP1_LANE] = 3
            assert (await send(peer, b"/ok")).ended
            assert taken(here) == 5

    run(main())


def test_keys_of_clients_take_bounded_memory() -> None:
    async def main() -> None:
        async def any_path(peer: Peer, stream: int) -> None:
            await answer(200)(peer, stream)

        class Anything(dict[bytes, object]):
            def __missing__(self, key: bytes) -> object:
                return any_path

        server = Server(Anything({**ANSWERS}))  # type: ignore[arg-type]
        async with laned(server) as (here, peer):
            assert here.h2_lane is not None
            for number in range(300):
                await send(peer, b"/%d-" % number + b"x" * 3000)
            assert 300 * 3000 < here.h2_lane.known_bytes < 32 << 20
            here.h2_lane.forget()
            assert here.h2_lane.known_bytes == 0
            assert (await send(peer, b"/ok")).ended

    run(main())


def test_resets_without_end_are_a_flood_in_the_lane_too() -> None:
    async def main() -> None:
        async with laned(Server({**ANSWERS, b"/hang": hangs})) as (here, peer):
            for _ in range(400):
                stream = peer.session.send_request(request(b"/hang"), end_stream=True)
                peer.session.reset(stream, 8)
            await peer.flush()
            await peer.until(lambda: peer.is_closed)
            assert 0xB in peer.goaways  # ENHANCE_YOUR_CALM
            await wait_for(lambda: not under_way(here))

    run(main())


def test_grpcio_on_both_sides() -> None:
    def work(channel: grpc.Channel) -> None:
        echo = channel.unary_unary("/t.T/Echo")
        for size in (0, 1, 1000, 3 << 20):
            got, outcome = echo.with_call(b"x" * size, timeout=30)
            assert len(got) == size
            assert dict(outcome.trailing_metadata())["x-sum"] == str(size)
        for _ in range(3):
            got = list(channel.unary_stream("/t.T/Count")(b"200", timeout=30))
            assert got == [b"%d" % number for number in range(200)]
            sent = (b"x" * 10_000 for _ in range(200))
            assert channel.stream_unary("/t.T/Total")(sent, timeout=30) == b"2000000"
            words = [b"a", b"b", b"c"] * 50
            answers = list(channel.stream_stream("/t.T/Chat")(iter(words), timeout=30))
            assert answers == [word.upper() for word in words]
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/t.T/Fail")(b"", timeout=30)
            assert caught.value.details() == "not now: é"

    (here,) = through(work)
    assert taken(here) >= 8


def test_a_deadline_and_a_cancellation_reach_the_server() -> None:
    begun, cancelled = threading.Semaphore(0), threading.Semaphore(0)

    def wait(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(cancelled.release)
        yield b"first"
        begun.release()
        assert cancelled.acquire(timeout=30)

    def work(channel: grpc.Channel) -> None:
        for _ in range(2):
            stream = channel.unary_stream("/t.T/Wait")(b"")
            assert next(stream) == b"first"
            assert begun.acquire(timeout=30)
            stream.cancel()
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/t.T/Hang")(b"", timeout=0.3)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    (here,) = through(work, Wait=grpc.unary_stream_rpc_method_handler(wait))
    assert taken(here) == 2
    assert under_way(here) == 0


def test_a_server_that_dies_cuts_what_it_began_and_what_it_did_not_is_tried_again() -> None:
    async def main() -> None:
        server = Server({**ANSWERS, b"/begin": begins, b"/hang": hangs})
        async with laned(server) as (here, peer):
            asks = (b"/begin", b"GET"), (b"/hang", b"POST"), (b"/hang", b"GET")
            for _ in range(2):
                begun, posted, got = (
                    peer.session.send_request(request(path, method), end_stream=True)
                    for path, method in asks
                )
                seen = len(server.seen)
                await peer.flush()
                await wait_for(lambda n=seen: len(server.seen) == n + 3)  # type: ignore[misc]
            await peer.until(lambda: bool(peer.seen(begun).body))
            assert taken(here) == 4
            server.answers[b"/hang"] = answer(200)
            server.peers[0].writer.transport.abort()
            assert (await peer.over(begun)).reset == 2
            assert dict((await peer.over(posted)).headers[0])[b":status"] == b"503"
            assert dict((await peer.over(got)).headers[0])[b":status"] == b"200"

    run(main())


def test_a_call_that_never_was_looked_at_is_made_again() -> None:
    async def main() -> None:
        async with laned(Server(ANSWERS)) as (here, peer):
            for _ in range(3):
                message = await post(peer, b"/refused", b"\0\0\0\0\1x", GRPC)
                assert dict(message.headers[0])[b"grpc-status"] == b"14"
            assert {record.tries for record in here.records if record.grpc_status == 14} == {3}

    run(main())
