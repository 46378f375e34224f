"""Connections that are no HTTP through a waypoint's data path, with policies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

from mesh.errors import UpstreamError
from mesh.model.address import SocketAddress
from mesh.model.connection import ConnectionRecord, Party
from mesh.model.identity import SpiffeId
from mesh.model.policy import PolicyKey
from mesh.model.verdict import Decision, RuleRef, Verdict
from mesh.policy.judge import NO_POLICY
from mesh.telemetry.party import party
from mesh.telemetry.request_log import LogMode, RequestLog
from mesh.tunnel.contract import TunnelSettings
from mesh.tunnel.select import best_engine, engine_factory
from tests.contract.http1.stage import CALLER, serving
from tests.contract.waypoint.scene import PORT, loopback, service
from waypoint.codec.flush_queue import FlushQueue
from waypoint.contract import Origin
from waypoint.downstream.front import Front
from waypoint.downstream.opaque import Clocks, OpaqueConnections
from waypoint.exchange.proxy import Proxy
from waypoint.limits import ProxyLimits
from waypoint.resilience.opaque_way import OpaqueRefusal, OpaqueWay
from waypoint.resilience.protection import Protection, Protections
from waypoint.routing.service_router import ServiceRouter
from waypoint.telemetry.records import Records
from waypoint.upstream.connect_tcp import TcpConnector
from waypoint.upstream.pool import Pool
from waypoint.upstream.target import Target, TargetKey
from waypoint.upstream.tunnels import dial

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
