"""Requests in tunnels whose certificate ends: they have a time of grace, new ones go elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress

from mesh.hbone.connect import ConnectRequest, build_connect
from mesh.tunnel.contract import TunnelEngine, TunnelSettings
from mesh.tunnel.expired import ExpiredTunnels
from mesh.tunnel.select import best_engine, engine_factory
from tests.contract.waypoint.scene import VIP, WAYPOINT, Scene, Script, scene
from tests.contract.waypoint.test_policy_change import streams
from tests.contract.waypoint.test_websocket import UPGRADE
from tests.support.certs import TestCa
from tests.support.tunnel import CLIENT, SERVER, App, StreamLog, TunnelLog, run, tcp_pair
from waypoint.codec.flush_queue import FlushQueue
from waypoint.downstream.front import Front
from waypoint.downstream.inbound import Inbound
from waypoint.limits import ProxyLimits
from waypoint.upstream.tunnels import UpstreamTunnels


async def upgraded(client: TunnelLog) -> tuple[App, StreamLog]:
    """A WebSocket to the service, through a client's tunnel."""
    near, engine_end = tcp_pair()
    log = StreamLog()
    tunnel = await client.up
    tunnel.open_stream(build_connect(ConnectRequest(authority=VIP)), engine_end, log)
    await log.opened
    app = App(near)
    await app.send(UPGRADE)
    assert b"101 " in await app.receive()
    return app, log


async def idle(here: Scene) -> None:
    """Wait until no request is left."""
    async with asyncio.timeout(30):
        while here.proxy.active:  # noqa: ASYNC110 - nothing tells a test of the end
            await asyncio.sleep(0.01)


def test_open_requests_have_a_time_of_grace_past_the_end_of_a_certificate() -> None:
    async def main() -> None:
        loop, ca, clock = asyncio.get_running_loop(), TestCa(), [time.time()]
        async with scene(streams, script=Script()) as here, asyncio.TaskGroup() as tasks:

            def spawn(work: Coroutine[None, None, None]) -> None:
                tasks.create_task(work)

            here.state.change_credentials([ca.issue(SERVER)], [])
            engine = engine_factory(best_engine())(loop, TunnelSettings())
            expired = ExpiredTunnels(600.0)
            inbound = receiver(here, engine, expired, spawn, lambda: clock[0])
            client = TunnelLog()
            near, far = tcp_pair()
            inbound.accepted(far)
            engine.client(near, ca.issue(CLIENT), frozenset((SERVER,)), client)
            app, log = await upgraded(client)
            inbound.retire_expired()
            tunnel = await client.up
            (proven,) = inbound.tunnels.values()
            clock[0] = proven.until
            inbound.retire_expired()
            await client.draining.wait()
            assert not tunnel.can_open
            expired.end_overdue(clock[0] + 599)
            await app.send(b"still here")
            assert await app.receive_exactly(10) == b"still here"
            assert expired.cut == 0
            expired.end_overdue(clock[0] + 600)
            await log.closed
            assert expired.cut == 1
            with suppress(ConnectionResetError):
                assert await app.receive() == b""
            await client.lost
            assert inbound.tunnels == {}
            await idle(here)
            (record,) = here.records
            assert record.status == 101
            app.close()
            await engine.aclose()

    run(main())


def receiver(
    here: Scene,
    engine: TunnelEngine,
    expired: ExpiredTunnels,
    spawn: Callable[[Coroutine[None, None, None]], None],
    epoch_s: Callable[[], float],
) -> Inbound:
    return Inbound(
        waypoint=WAYPOINT,
        state=here.state,
        engine=engine,
        front=front(here, engine, expired, spawn),
        spawn=spawn,
        expired=expired,
        epoch_s=epoch_s,
    )


def front(
    here: Scene,
    engine: TunnelEngine,
    expired: ExpiredTunnels,
    spawn: Callable[[Coroutine[None, None, None]], None],
) -> Front:
    loop, flushes = asyncio.get_running_loop(), FlushQueue(asyncio.get_running_loop())
    return Front(
        loop,
        exchanges=here.proxy,
        limits=ProxyLimits(),
        engine=engine,
        opaque=here.state,
        opener=UpstreamTunnels(loop, engine, here.state, spawn, expired),
        flushes=flushes,
    )
