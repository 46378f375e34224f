"""Whether a worker has a lane, and how it is put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random

from mesh.telemetry.requests import BUCKETS_MS
from waypoint.downstream.front import Front
from waypoint.exchange.proxy import Proxy
from waypoint.lane.adopt import Adopter
from waypoint.lane.host import Decider, Lane, Opener
from waypoint.lane.recorder import Observation
from waypoint.limits import ProxyLimits
from waypoint.upstream.pool import Pool

try:
    from waypoint.lane.engine import Engine
except ImportError:  # it was not compiled here
    Engine = None  # type: ignore[assignment,misc]


def is_built() -> bool:
    """Whether the compiled part is there."""
    return Engine is not None


def build_lane(
    loop: asyncio.AbstractEventLoop,
    *,
    limits: ProxyLimits,
    decider: Decider,
    proxy: Proxy,
    pool: Pool,
    front: Front,
    opener: Opener,
    spawn: Callable[[Coroutine[None, None, None]], None],
    random: Random,
    observation: Observation,
) -> Lane:
    """Put the lane of a worker before its front. Only where it `is_built`."""
    adopter = Adopter(
        loop,
        proxy=proxy,
        pool=pool,
        serve=front.serve_http1,
        caller_fields=proxy.fields_of,
        random=random,
        spawn=spawn,
    )
    front.lane = lane = Lane(
        loop,
        limits=limits,
        decider=decider,
        caller_fields=proxy.fields_of,
        opener=opener,
        fallback=front,
        adopter=adopter,
        spawn=spawn,
        random=random,
        observation=observation,
        new_engine=lambda lane: Engine(limits, lane, BUCKETS_MS),
    )
    lane.join(proxy.crowd)
    return lane
