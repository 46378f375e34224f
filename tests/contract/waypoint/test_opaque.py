"""Connections that are no HTTP: relayed, recorded, and cut when policy changes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from mesh.errors import UpstreamError
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.connection import ConnectionRecord, Party
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
from mesh.model.verdict import Decision, RuleRef, Verdict
from mesh.model.workload import ServiceKey
from mesh.policy.judge import NO_POLICY
from mesh.resilience.circuit import Resource
from mesh.telemetry.metrics import MeshMetrics
from mesh.telemetry.request_log import LogMode, RequestLog
from mesh.tunnel.contract import TunnelSettings
from mesh.tunnel.select import best_engine, engine_factory
from tests.contract.http1.stage import CALLER, run, serving
from tests.contract.waypoint.scene import PORT, Script, loopback, scene, service
from waypoint.cluster_state import PolicyCounters, describe
from waypoint.connect_tcp import TcpConnector
from waypoint.connection_counts import count_connections
from waypoint.contract import Origin
from waypoint.fair import FairGate
from waypoint.feed import Connections, Lines
from waypoint.flush_queue import FlushQueue
from waypoint.front import Front
from waypoint.limits import ProxyLimits
from waypoint.opaque import Clocks, OpaqueConnections
from waypoint.opaque_way import OpaqueRefusal, OpaqueWay
from waypoint.party import party
from waypoint.pool import Pool
from waypoint.protection import Protection, Protections, Way
from waypoint.proxy import Proxy
from waypoint.records import Records
from waypoint.service_router import ServiceRouter
from waypoint.target import Group, Speaks, Target, TargetKey
from waypoint.upstream_tunnels import dial

OTHER = replace(CALLER, service_account="other")
DENIED = Verdict(
    allowed=False,
    decision=Decision.DENY_RULE,
    decided_by=RuleRef(kind="AuthorizationPolicy", policy=PolicyKey("shop/no"), rule=0),
)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 ")
    while data := await reader.read(100):
        writer.write(data.upper())


@dataclass(slots=True)
class Ground:
    """A front that relays; `target` None: policy or routes leave no endpoint."""

    front: Front
    relays: OpaqueConnections
    records: list[ConnectionRecord]
    target: Target | None
    verdict: Verdict = NO_POLICY
    dead: bool = False
    protection: Protection | None = None
    protections: Protections = field(init=False)
    opened: list[Party] = field(default_factory=list)

    def wants_server_name(self, origin: Origin) -> bool:
        return False

    def pick_opaque(self, origin: Origin, server_name: str) -> OpaqueWay | OpaqueRefusal | None:
        if self.protection is not None:
            return OpaqueWay.under(self.protection, origin.principal, self.relays.clocks.now())
        if self.target is None or not self.verdict.allowed:
            return None
        return OpaqueWay(self.target)

    async def open_socket(self, target: Target) -> socket.socket:
        if self.dead:
            raise UpstreamError("nobody there")
        return await dial(asyncio.get_running_loop(), target.key.address)

    async def connect(
        self, caller: SpiffeId = CALLER
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        origin = Origin(
            principal=caller,
            client=SocketAddress(loopback(1).ip, 0),
            dialled=loopback(PORT),
            service=service("web", app_protocol="tcp"),
            workload=None,
            src=party(None, CALLER),
        )
        await self.front.serve(far, origin)
        return await asyncio.open_unix_connection(sock=near)

    async def ended(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.records) < count:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)


@asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    loop = asyncio.get_running_loop()
    async with serving(shout) as port, asyncio.TaskGroup() as tasks:
        records = Records("Kubernetes", RequestLog(mode=LogMode.OFF), Random(1).random)
        limits = ProxyLimits()
        flushes = FlushQueue(loop)
        pool = Pool(loop, TcpConnector(loop), limits, lambda w: void(tasks, w), flushes)
        proxy = Proxy(
            loop,
            limits=limits,
            pool=pool,
            router=ServiceRouter(None),  # type: ignore[arg-type]  # no request comes
            record=records.record,
            random=Random(1),
        )
        engine = engine_factory(best_engine())(loop, TunnelSettings())
        made: list[Ground] = []
        clocks = Clocks(now=loop.time, epoch_s=lambda: 1_700_000_000.0)
        sink = Sink()
        relays = OpaqueConnections(sink, lambda _: made[0].verdict, clocks)
        key = TargetKey(address=loopback(port), tunnel=None, expected=frozenset[SpiffeId]())
        target = Target(key, Party(name="web-1", namespace="shop"))
        holder = Holder(made)
        front = Front(
            loop,
            exchanges=proxy,
            limits=limits,
            engine=engine,
            opaque=holder,
            opener=holder,
            flushes=flushes,
            relays=relays,
        )
        made.append(Ground(front, relays, sink.records, target, opened=sink.parties))
        try:
            yield made[0]
        finally:
            await engine.aclose()


def void(tasks: asyncio.TaskGroup, work: object) -> None:
    tasks.create_task(work)  # type: ignore[arg-type]  # a coroutine


class Holder:
    """Routes and sockets of a ground that is made later."""

    def __init__(self, made: list[Ground]) -> None:
        self._made = made

    def wants_server_name(self, origin: Origin) -> bool:
        return self._made[0].wants_server_name(origin)

    def pick_opaque(self, origin: Origin, server_name: str) -> OpaqueWay | OpaqueRefusal | None:
        return self._made[0].pick_opaque(origin, server_name)

    async def open_socket(self, target: Target) -> socket.socket:
        return await self._made[0].open_socket(target)


class Sink:
    """Keeps what becomes of connections."""

    def __init__(self) -> None:
        self.records: list[ConnectionRecord] = []
        self.parties: list[Party] = []

    def opened(self, origin: Origin, dst: Party) -> None:
        self.parties.append(dst)

    def ended(self, record: ConnectionRecord) -> None:
        self.records.append(record)


def test_a_connection_is_recorded_with_its_bytes() -> None:
    async def main() -> None:
        async with ground() as here:
            reader, writer = await here.connect()
            writer.write(b"hello")
            assert await reader.readexactly(9) == b"220 HELLO"
            assert len(here.relays) == 1
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await here.ended(1)
            (record,) = here.records
            assert (record.flag, record.reporter) == ("-", "waypoint")
            assert (record.bytes_sent, record.bytes_received) == (5, 9)
            assert record.service == "shop/web"
            assert record.dst.name == "web-1"
            assert record.mutual_tls
            assert len(here.relays) == 0
            assert here.target is not None
            assert here.target.active == 0

    run(main())


def test_a_policy_that_changes_cuts_what_it_forbids() -> None:
    async def main() -> None:
        async with ground() as here:
            reader, writer = await here.connect()
            assert await reader.readexactly(4) == b"220 "
            here.relays.judge_again()
            assert len(here.relays) == 1
            here.verdict = DENIED
            here.relays.judge_again()
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            await here.ended(1)
            (record,) = here.records
            assert record.flag == "POLICY_CHANGE"
            assert record.policy == "AuthorizationPolicy shop/no rule[0]"

    run(main())


def test_what_is_refused_is_recorded_too() -> None:
    async def main() -> None:
        async with ground() as here:
            here.verdict = DENIED
            _, writer = await here.connect()
            writer.close()
            here.verdict, here.dead = NO_POLICY, True
            _, writer = await here.connect()
            writer.close()
            here.target = None
            _, writer = await here.connect()
            writer.close()
            assert [record.flag for record in here.records] == ["DENY", "CONNECT", "UH"]
            assert here.records[0].policy == "AuthorizationPolicy shop/no rule[0]"
            assert "nobody there" in here.records[1].detail
            assert len(here.opened) == 3

    run(main())


def test_lines_and_metrics_come_of_it() -> None:
    async def main() -> None:
        async with ground() as here:
            here.verdict = DENIED
            _, writer = await here.connect()
            writer.close()
            (record,) = here.records
            records = Records("Kubernetes", RequestLog(mode=LogMode.JSON), Random(1).random)
            records.ended(record)
            lines, ends = records.take()
            assert isinstance(lines, Lines)
            assert '"direction": "waypoint"' in lines.text
            assert isinstance(ends, Connections)
            registry = CollectorRegistry()
            metrics = MeshMetrics(registry, now=lambda: 0.0)
            count_connections(metrics, ends)
            counts = [
                ("meshnode_policy_denied_total", ("waypoint", "x"), 2),
                ("other", (), 1),
                ("meshnode_policy_denied_total", (), 9),
            ]
            metrics.count_policy(counts)
            text = generate_latest(registry).decode()
            assert "istio_tcp_connections_closed_total{" in text
            assert 'reporter="waypoint"' in text
            denied = 'meshnode_policy_denied_total{policy="x",reporter="waypoint"} 2.0'
            assert denied in text

    run(main())


# --- under a TrafficPolicy ----------------------------------------------------------------------


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
