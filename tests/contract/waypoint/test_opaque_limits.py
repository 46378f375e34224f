"""Limits, rates and ejection of a TrafficPolicy on connections that are no HTTP."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from mesh.model.address import SocketAddress, parse_ip
from mesh.model.identity import SpiffeId
from mesh.model.policy import PolicyKey
from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import (
    CircuitLimits,
    OutlierDetection,
    PolicyTarget,
    RateLimit,
    RateLimitKey,
    TrafficPolicy,
    Upgrades,
)
from mesh.model.workload import ServiceKey
from mesh.resilience.circuit import Resource
from tests.contract.http1.stage import CALLER, run
from tests.contract.waypoint.ground import OTHER, Ground, ground, shout
from tests.contract.waypoint.scene import PORT, Script, loopback, scene, service
from waypoint.contract import Origin
from waypoint.resilience.cluster_state import PolicyCounters, describe
from waypoint.resilience.fair import FairGate
from waypoint.resilience.opaque_way import OpaqueRefusal, OpaqueWay
from waypoint.resilience.protection import Protection, Protections, Way
from waypoint.upstream.target import Group, Speaks


def protect(
    here: Ground, **parts: CircuitLimits | OutlierDetection | Upgrades | tuple[RateLimit, ...]
) -> Protection:
    """Put the connections of a ground under a policy of their service."""
    key, targets = PolicyKey("shop/p"), (PolicyTarget(group="", kind="Service", name="web"),)
    policy = TrafficPolicy(key=key, namespace="shop", name="p", targets=targets, **parts)  # type: ignore[arg-type]  # by name
    web = service("web", app_protocol="tcp")
    snapshot = MeshSnapshot(revision=1, services={web.key: web}, traffic_policies={key: policy})
    here.protections = protections = Protections(Random(1), here.relays.clocks.now)
    protections.follow(snapshot)
    assert here.target is not None
    group = Group(name="web", targets=(here.target,), speaks=Speaks.HTTP1)
    way = Way(places=(("shop/web", ""),), service=ServiceKey("shop/web"), port=PORT, family=4)
    found = protections.find(way, group)
    assert found is not None
    here.protection = found
    return found


def test_connections_are_limited() -> None:
    async def main() -> None:
        async with ground() as here:
            protect(here, limits=CircuitLimits(max_endpoint_connections=2))
            held = [await here.connect() for _ in range(2)]
            for reader, _ in held:
                assert await reader.readexactly(4) == b"220 "
            reader, writer = await here.connect()
            assert await reader.read() == b""
            writer.close()
            (record,) = here.records
            assert (record.flag, record.detail) == ("UO", "overflow")
            assert here.target is not None
            assert (here.target.active, here.target.connections) == (2, 2)
            held[0][1].close()
            await here.ended(2)
            reader, writer = await here.connect()  # there is room again
            assert await reader.readexactly(4) == b"220 "
            for each in (held[1][1], writer):
                each.close()
            await here.ended(4)
            assert (here.target.active, here.target.connections) == (0, 0)

    run(main())


async def refused(here: Ground, caller: SpiffeId = CALLER) -> tuple[str, str]:
    """Flag and detail of a connection that is closed without a byte."""
    before = len(here.records)
    reader, writer = await here.connect(caller)
    assert await reader.read() == b""
    writer.close()
    (record,) = here.records[before:]
    return record.flag, record.detail


async def held(here: Ground, caller: SpiffeId = CALLER) -> asyncio.StreamWriter:
    """A connection that was let through."""
    reader, writer = await here.connect(caller)
    assert await reader.readexactly(4) == b"220 "
    return writer


def test_no_first_connection_passes_over_the_limit_of_all() -> None:
    """Who cannot wait for a connection has no claim to the first one of an endpoint."""

    async def main() -> None:
        async with ground() as here:
            found = protect(here, limits=CircuitLimits(max_connections=1))
            assert found.cluster.breaker.connect(5)  # to another endpoint
            assert await refused(here) == ("UO", "overflow")
            found.cluster.breaker.disconnect()
            writer = await held(here)
            writer.close()
            await here.ended(2)

    run(main())


def test_a_caller_has_so_many_connections_open() -> None:
    async def main() -> None:
        async with ground() as here:
            found = protect(here, limits=CircuitLimits(max_caller_connections=2))
            writers = [await held(here), await held(here)]
            assert await refused(here) == ("UO", "caller_overflow")
            writers.append(await held(here, OTHER))
            writers.pop(0).close()
            await here.ended(2)
            writers.append(await held(here))
            assert await refused(here) == ("UO", "caller_overflow")
            for writer in writers:
                writer.close()
            await here.ended(6)
            assert found.cluster.breaker.rejected[Resource.CONNECTIONS] == 2
            assert found.cluster.breaker.active(Resource.CONNECTIONS) == 0

    run(main())


def test_connections_come_at_a_rate() -> None:
    async def main() -> None:
        async with ground() as here:
            total = RateLimit(requests=3, per_s=3600, burst=3, name="all")
            each = RateLimit(
                requests=2, per_s=3600, burst=2, key=RateLimitKey.IDENTITY, name="each"
            )
            protect(here, connection_rate_limits=(each, total))
            writers = [await held(here), await held(here)]
            assert await refused(here) == ("RL", "rate_limited[shop/p/each]")
            writers.append(await held(here, OTHER))
            assert await refused(here, OTHER) == ("RL", "rate_limited[shop/p/all]")
            for writer in writers:
                writer.close()
            await here.ended(5)

    run(main())


def test_a_rate_in_shadow_counts_and_refuses_nothing() -> None:
    async def main() -> None:
        async with ground() as here:
            limit = RateLimit(requests=1, per_s=3600, burst=1, shadow=True)
            found = protect(here, connection_rate_limits=(limit,))
            for writer in [await held(here), await held(here), await held(here)]:
                writer.close()
            await here.ended(3)
            assert found.connection_limits is not None
            (item,) = found.connection_limits.items
            assert (item.limiter.passed, item.limiter.limited) == (1, 2)
            counts: dict[tuple[str, tuple[str, ...]], int] = {}
            counters = PolicyCounters(lambda n, labels, by: counts.update({(n, labels): by}))
            counters.tell(here.protections, FairGate(1))
            name = "meshnode_waypoint_rate_limit_connections_total"
            assert counts[name, ("shop/p/0", "passed")] == 1
            assert counts[name, ("shop/p/0", "shadow")] == 2
            (state,) = describe(here.protections, 0.0)
            assert [(rate.name, rate.limited) for rate in state.rate_limits] == [("shop/p/0", 2)]

    run(main())


def test_an_endpoint_that_takes_none_is_ejected() -> None:
    async def main() -> None:
        async with ground() as here:
            # Twice: the only endpoint of a service is never out, but its failures are counted.
            found = protect(here, outlier_detection=OutlierDetection(consecutive_failures=2))
            here.dead = True
            for _ in range(2):
                _, writer = await here.connect()
                writer.close()
            assert here.target is not None
            detector = found.cluster.detector
            assert detector is not None
            now = here.relays.clocks.now()
            assert detector.health(here.target, now).failures_in_row == 2
            assert [record.flag for record in here.records] == ["CONNECT", "CONNECT"]
            assert (here.target.active, here.target.connections) == (0, 0)
            here.dead = False
            reader, writer = await here.connect()
            assert await reader.readexactly(4) == b"220 "
            assert detector.health(here.target, now).failures_in_row == 0
            writer.close()
            await here.ended(3)

    run(main())


@pytest.mark.parametrize(
    ("upgrades", "flag"),
    [(Upgrades(idle_timeout_s=0.01), "SI"), (Upgrades(max_duration_s=0.01), "DT")],
    ids=["idle", "longest"],
)
def test_a_connection_ends_in_time(upgrades: Upgrades, flag: str) -> None:
    async def main() -> None:
        async with ground() as here:
            protect(here, upgrades=upgrades)
            reader, writer = await here.connect()
            assert await reader.readexactly(4) == b"220 "
            async with asyncio.timeout(30):
                while not here.records:
                    here.relays.tick()
                    await asyncio.sleep(0.01)
            writer.close()
            (record,) = here.records
            assert (record.flag, record.bytes_received) == (flag, 4)

    run(main())


def test_a_worker_finds_the_policy_of_a_connection() -> None:
    async def main() -> None:
        targets = (PolicyTarget(group="", kind="Service", name="web"),)
        policy = TrafficPolicy(
            key=PolicyKey("shop/p"),
            namespace="shop",
            name="p",
            targets=targets,
            limits=CircuitLimits(max_requests=1),
        )
        script = Script(snapshot=MeshSnapshot(revision=1, traffic_policies={policy.key: policy}))
        async with scene(shout, script=script) as here:
            origin = Origin(
                principal=CALLER,
                client=loopback(1),
                dialled=SocketAddress(parse_ip("10.96.0.1"), PORT),
                service=here.state.snapshot.services[ServiceKey("shop/web")],
                workload=None,
            )
            first = here.state.pick_opaque(origin, "")
            assert isinstance(first, OpaqueWay)
            refused = here.state.pick_opaque(origin, "")
            assert isinstance(refused, OpaqueRefusal)
            assert (refused.flag, refused.detail) == ("UO", "overflow")
            first.close(0.0)
            second = here.state.pick_opaque(origin, "")
            assert isinstance(second, OpaqueWay)
            second.close(0.0)

    run(main())
