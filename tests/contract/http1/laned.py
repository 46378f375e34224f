"""The stage's proxy behind the lane, as a worker has it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from random import Random

from mesh.http1.message import RequestHead
from mesh.telemetry.requests import BUCKETS_MS
from waypoint.codec.flush_queue import FlushQueue
from waypoint.codec.h1_server import Http1Server
from waypoint.contract import Exchanges, Origin
from waypoint.downstream.attach import attach
from waypoint.exchange.proxy import Proxy
from waypoint.lane.adopt import Adopter
from waypoint.lane.engine import Engine
from waypoint.lane.h2_lane import Http2Lane
from waypoint.lane.host import Lane
from waypoint.lane.recorder import Observation
from waypoint.limits import ProxyLimits
from waypoint.routing.dependence import Dependence
from waypoint.routing.plan import Forward, Reply, Router, Wait
from waypoint.upstream.pool import Pool
from waypoint.upstream.target import Target
from waypoint.upstream.tunnels import dial

TICK_S = 0.05
USE_LANE: ContextVar[bool] = ContextVar("USE_LANE", default=False)
"""Whether stages of this test have a lane; set by a fixture."""
USE_H2_LANE: ContextVar[bool] = ContextVar("USE_H2_LANE", default=False)
"""The same for HTTP/2."""


@dataclass(frozen=True, slots=True)
class _Decider:
    router: Router

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply | Wait:
        return self.router.plan(origin, head)

    def depends(self, origin: Origin) -> Dependence | None:
        return Dependence(headers=frozenset(("x-key",)))


@dataclass(frozen=True, slots=True)
class _Opener:
    loop: asyncio.AbstractEventLoop

    async def open_socket(self, target: Target) -> socket.socket:
        return await dial(self.loop, target.key.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What stands behind the lane."""

    loop: asyncio.AbstractEventLoop
    proxy: Proxy
    pool: Pool
    origin: Origin
    limits: ProxyLimits
    flushes: FlushQueue
    add: Callable[[Http1Server], Http1Server]
    forget: Callable[[Http1Server], None]
    spawn: Callable[[Coroutine[None, None, None]], None]
    observation: Observation

    async def serve_http1(
        self,
        sock: socket.socket,
        origin: Origin,
        initial: bytes,
        exchanges: Exchanges | None = None,
    ) -> None:
        """As `waypoint.downstream.front.Front` does."""
        parts = (self.loop, exchanges or self.proxy, origin, self.limits, self.forget)
        server = self.add(Http1Server(*parts, self.flushes))
        await attach(self.loop, sock, server, initial)


def new_lane(behind: Behind) -> Lane:
    """Put a lane before it."""
    random = Random(7)
    adopter = Adopter(
        behind.loop,
        proxy=behind.proxy,
        pool=behind.pool,
        serve=behind.serve_http1,
        caller_fields=behind.proxy.fields_of,
        random=random,
        spawn=behind.spawn,
    )
    lane = Lane(
        behind.loop,
        limits=behind.limits,
        decider=_Decider(behind.proxy.router),
        caller_fields=behind.proxy.fields_of,
        opener=_Opener(behind.loop),
        fallback=behind,
        adopter=adopter,
        spawn=behind.spawn,
        random=random,
        observation=behind.observation,
        new_engine=lambda lane: Engine(behind.limits, lane, BUCKETS_MS),
    )
    lane.join(behind.proxy.crowd)
    return lane


def new_h2_lane(
    loop: asyncio.AbstractEventLoop, proxy: Proxy, pool: Pool, limits: ProxyLimits
) -> Http2Lane:
    """A lane for HTTP/2, which the pool's connections enter."""
    decider = _Decider(proxy.router)
    pool.h2_lane = lane = Http2Lane(
        loop, limits=limits, decider=decider, proxy=proxy, random=Random(7)
    )
    return lane


@contextlib.contextmanager
def listening(behind: Behind, lane: Lane) -> Iterator[int]:
    """Accept clients into a lane, on a free port."""
    loop = behind.loop
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        def accept() -> None:
            with contextlib.suppress(BlockingIOError):
                sock, _ = listener.accept()
                sock.setblocking(False)
                lane.serve(sock, behind.origin, b"")

        ticking: list[asyncio.TimerHandle] = []

        def tick() -> None:
            lane.tick()
            ticking[:] = [loop.call_later(TICK_S, tick)]

        loop.add_reader(listener, accept)
        tick()
        try:
            yield listener.getsockname()[1]
        finally:
            loop.remove_reader(listener)
            ticking[0].cancel()
            lane.close()
