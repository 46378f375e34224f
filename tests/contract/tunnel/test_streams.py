"""Bytes, ends and refusals of streams."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random

import pytest

from mesh.errors import LocalProtocolError
from mesh.tunnel.contract import EndReason, LossReason, Tunnel, TunnelSettings
from tests.support.tunnel import (
    CLIENT,
    CONNECT,
    SERVER,
    App,
    EngineFactory,
    StreamLog,
    run,
    tcp_pair,
    tunnel_pair,
)


@pytest.mark.parametrize("send_buffer", [0, 20_000])
def test_bytes_travel_both_ways_and_are_counted(factory: EngineFactory, send_buffer: int) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect(send_buffer=send_buffer)
            joined = await pair.join()
            assert (await pair.client.up).peer == SERVER
            assert (await pair.server.up).peer == CLIENT
            assert (b"baggage", b"a=b") in await joined.client.opened
            payload = random.Random(1).randbytes(6_000_000)
            async with asyncio.TaskGroup() as group:
                for sender, receiver in ((joined.near, joined.far), (joined.far, joined.near)):
                    group.create_task(sender.send(payload))
                    group.create_task(_expect(receiver, payload))
            joined.near.finish()
            assert await joined.far.receive() == b""
            joined.far.finish()
            assert await joined.near.receive() == b""
            for log in (joined.client, joined.server):
                end = await log.closed
                assert end.reason is EndReason.DONE
                assert (end.bytes_out, end.bytes_in) == (len(payload), len(payload))

    run(main())


async def _expect(app: App, payload: bytes) -> None:
    data = await app.receive_exactly(len(payload))
    assert hashlib.sha256(data).digest() == hashlib.sha256(payload).digest()


@pytest.mark.parametrize("client_first", [True, False])
def test_half_close_leaves_the_other_direction_open(
    factory: EngineFactory, client_first: bool
) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            joined = await pair.join()
            first, second = joined.near, joined.far
            if not client_first:
                first, second = second, first
            await first.send(b"question")
            first.finish()
            assert await second.receive_all() == b"question"
            await second.send(b"answer" * 100_000)
            second.finish()
            assert await first.receive_all() == b"answer" * 100_000
            assert (await joined.client.closed).reason is EndReason.DONE
            assert (await joined.server.closed).reason is EndReason.DONE

    run(main())


@pytest.mark.parametrize("client_resets", [True, False])
def test_reset_of_one_application_resets_the_other(
    factory: EngineFactory, client_resets: bool
) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            joined = await pair.join()
            await joined.near.send(b"x")
            await joined.far.receive()
            resetting, other = joined.near, joined.far
            logs = joined.client, joined.server
            if not client_resets:
                resetting, other = other, resetting
                logs = logs[1], logs[0]
            resetting.reset()
            with pytest.raises(ConnectionResetError):
                await other.receive()
            assert (await logs[0].closed).reason is EndReason.APPLICATION_RESET
            assert (await logs[1].closed).reason is EndReason.PEER_RESET

    run(main())


def test_refusal_gives_the_socket_back_untouched(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            tunnel = await pair.client.up
            near, engine_end = tcp_pair()
            await App(near).send(b"early")
            log = StreamLog()
            tunnel.open_stream(CONNECT, engine_end, log)
            (await pair.server.requests.get()).refuse(401, ((b"x-why", b"policy"),))
            status, headers, _ = await log.refused
            assert status == 401
            assert (b"x-why", b"policy") in headers
            assert await App(engine_end).receive() == b"early"
            assert tunnel.active_streams == 0
            near.close()
            engine_end.close()
            await pair.join()  # the tunnel goes on

    run(main())


def test_a_declined_request_can_be_tried_elsewhere(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            near, engine_end = tcp_pair()
            log = StreamLog()
            (await pair.client.up).open_stream(CONNECT, engine_end, log)
            (await pair.server.requests.get()).decline()
            status, _, detail = await log.refused
            assert status == 0
            assert "REFUSED_STREAM" in detail
            near.close()
            engine_end.close()
            await pair.join()  # the tunnel goes on

    run(main())


def test_abort_resets_both_ends(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            joined = await pair.join()
            joined.client_stream.abort("policy changed")
            joined.client_stream.abort("again")
            assert not joined.client.closed.done(), "never from inside the call"
            end = await joined.client.closed
            assert (end.reason, end.detail) == (EndReason.ABORTED, "policy changed")
            assert (await joined.server.closed).reason is EndReason.PEER_RESET
            with pytest.raises(ConnectionResetError):
                await joined.far.receive()

    run(main())


def test_accept_after_the_stream_went_away(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            tunnel = await pair.client.up
            near, engine_end = tcp_pair()
            log = StreamLog()
            stream = tunnel.open_stream(CONNECT, engine_end, log)
            request = await pair.server.requests.get()
            stream.abort("gone")
            assert (await log.closed).reason is EndReason.ABORTED
            joined = await pair.join()  # the reset has arrived when this one has
            far, far_engine = tcp_pair()
            server_log = StreamLog()
            request.accept((), far_engine, server_log)
            assert (await server_log.closed).reason is EndReason.PEER_RESET
            assert far_engine.fileno() == -1
            near.close()
            far.close()
            joined.near.close()

    run(main())


def test_answering_twice_is_a_defect(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            tunnel = await pair.client.up
            near, engine_end = tcp_pair()
            log = StreamLog()
            tunnel.open_stream(CONNECT, engine_end, log)
            request = await pair.server.requests.get()
            request.refuse(503)
            with pytest.raises(LocalProtocolError):
                request.refuse(503)
            await log.refused
            near.close()
            engine_end.close()

    run(main())


def _takes_streams(tunnel: Tunnel) -> bool:
    """A call, so that mypy does not believe the answer to stay."""
    return tunnel.can_open


def test_limit_of_streams_and_the_slot_that_becomes_free(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory, TunnelSettings(max_concurrent_streams=2)) as pair:
            tunnel = pair.connect()
            assert not _takes_streams(tunnel)
            first = await pair.join()
            assert _takes_streams(tunnel)
            await pair.join()
            assert not _takes_streams(tunnel)
            assert tunnel.active_streams == 2
            near, engine_end = tcp_pair()
            with pytest.raises(LocalProtocolError):
                tunnel.open_stream(CONNECT, engine_end, StreamLog())
            assert engine_end.fileno() >= 0, "the socket stays the caller's"
            near.close()
            engine_end.close()
            first.client_stream.abort()
            await pair.client.slot_free.wait()
            await first.server.closed
            await pair.join()

    run(main())


def test_stuck_stream_is_bounded_and_blocks_no_other(factory: EngineFactory) -> None:
    async def main() -> None:
        settings = TunnelSettings(stream_window_bytes=1 << 20, connection_window_bytes=4 << 20)
        async with tunnel_pair(factory, settings) as pair:
            pair.connect()
            stuck, other = await pair.join(), await pair.join()
            sent = 0
            with contextlib.suppress(TimeoutError):
                for count in range(4096):
                    async with asyncio.timeout(0.5):
                        await stuck.near.send(bytes(1 << 16))
                    sent = (count + 1) << 16
            # Kernel buffers of two sockets on each side, one window, and the sender's bound.
            assert stuck.client_stream.bytes_out - stuck.server_stream.bytes_in < 3 << 20
            payload = bytes(8 << 20)
            async with asyncio.TaskGroup() as group:
                group.create_task(other.near.send(payload))
                group.create_task(_expect(other.far, payload))
            assert len(await stuck.far.receive_exactly(sent)) == sent

    run(main())


@pytest.mark.parametrize("moved_first", [False, True])
def test_many_stuck_streams_leave_credit_for_another(
    factory: EngineFactory, moved_first: bool
) -> None:
    """Also where each has earned a large window before its application stopped reading."""

    async def main() -> None:
        settings = TunnelSettings(
            stream_window_bytes=1 << 20, connection_window_bytes=4 << 20, max_concurrent_streams=16
        )
        async with tunnel_pair(factory, settings) as pair:
            pair.connect()
            stuck = [await pair.join() for _ in range(8)]
            if moved_first:
                for joined in stuck:
                    await _pass_on(joined.near, joined.far, bytes(1 << 20))
            async with asyncio.TaskGroup() as group:
                for joined in stuck:
                    group.create_task(_fill(joined.near))
            other = await pair.join()
            await _pass_on(other.near, other.far, bytes(1 << 20))

    run(main())


async def _pass_on(sender: App, receiver: App, payload: bytes) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sender.send(payload))
        group.create_task(_expect(receiver, payload))


async def _fill(app: App) -> None:
    """Send until nothing moves any more."""
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.5):
                await app.send(bytes(1 << 16))


def test_drain_finishes_streams_under_way(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            joined = await pair.join()
            (await pair.server.up).drain(10)
            await pair.client.draining.wait()
            assert not (await pair.client.up).can_open
            await joined.near.send(b"still")
            assert await joined.far.receive() == b"still"
            joined.near.finish()
            joined.far.finish()
            assert (await joined.client.closed).reason is EndReason.DONE
            assert (await joined.server.closed).reason is EndReason.DONE
            # Whoever sees the last stream end first closes; the other one may see that.
            assert (await pair.server.lost).reason in (LossReason.LOCAL, LossReason.PEER_CLOSED)
            assert (await pair.client.lost).reason is LossReason.PEER_CLOSED

    run(main())


def test_drain_ends_at_its_deadline(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            joined = await pair.join()
            (await pair.client.up).drain(0.1)
            assert (await pair.client.lost).reason is LossReason.LOCAL
            assert (await joined.client.closed).reason is EndReason.TUNNEL_LOST
            assert (await joined.server.closed).reason is EndReason.TUNNEL_LOST
            assert (await pair.server.lost).reason is LossReason.PEER_CLOSED

    run(main())


def test_lost_tunnel_resets_streams_and_returns_waiting_sockets(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            tunnel = pair.connect()
            joined = await pair.join()
            near, engine_end = tcp_pair()
            log = StreamLog()
            tunnel.open_stream(CONNECT, engine_end, log)
            tunnel.abort("revoked")
            tunnel.abort("again")
            assert not pair.client.lost.done(), "never from inside the call"
            loss = await pair.client.lost
            assert (loss.reason, loss.detail) == (LossReason.LOCAL, "revoked")
            assert (await log.refused)[0] == 0
            assert engine_end.fileno() >= 0
            assert (await joined.client.closed).reason is EndReason.TUNNEL_LOST
            with pytest.raises(ConnectionResetError):
                await joined.near.receive()
            near.close()
            engine_end.close()

    run(main())


def test_closing_the_engine_delivers_every_last_event(factory: EngineFactory) -> None:
    async def main() -> None:
        async with tunnel_pair(factory) as pair:
            pair.connect()
            joined = await pair.join()
            await pair.engine.aclose()
            assert pair.client.lost.done()
            assert pair.server.lost.done()
            assert joined.client.closed.done()
            assert joined.server.closed.done()

    run(main())
