"""A proxy on loopback that judges and routes by a snapshot, as a worker does; without tunnels."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from mesh.jwt.fetch import KeyFetcher, KeyRing
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.authentication import JwtRule, RequestAuthentication
from mesh.model.policy import (
    AuthorizationPolicy,
    PolicyKey,
    PolicyScope,
    PolicyTarget,
    TargetKind,
)
from mesh.model.provider import ExternalAuthorizer
from mesh.model.request import RequestRecord
from mesh.model.snapshot import MeshSettings, MeshSnapshot
from mesh.model.workload import (
    Endpoint,
    Service,
    ServiceKey,
    ServicePort,
    Workload,
    WorkloadUid,
)
from mesh.telemetry.party import party
from mesh.telemetry.request_log import LogMode
from tests.contract.http1.laned import USE_H2_LANE
from tests.contract.http1.stage import CALLER, OWN, Client, Handler, serving
from waypoint.codec.flush_queue import FlushQueue
from waypoint.codec.h1_server import Http1Server
from waypoint.codec.h2_server import Http2Server
from waypoint.contract import Origin
from waypoint.exchange.proxy import Proxy
from waypoint.lane.h2_lane import Http2Lane
from waypoint.limits import ProxyLimits
from waypoint.resilience.protection import Vantage
from waypoint.security.authorize import Outside
from waypoint.security.custom.ask import Authorizers
from waypoint.state import WorkerState
from waypoint.upstream.connect_tcp import TcpConnector
from waypoint.upstream.pool import Pool

WAYPOINT = "shop/gate"
PORT = 80
VIP = SocketAddress(parse_ip("10.96.0.1"), PORT)
POD = Workload(
    uid=WorkloadUid("pod/shop/web-1"),
    name="web-1",
    namespace="shop",
    service_account="web",
    trust_domain="cluster.local",
    node="node-a",
    addresses=(parse_ip("127.0.0.1"),),
    enrolled=False,  # no tunnel leads there
    labels={"app": "web"},
    waypoint=WAYPOINT,
)
TARGET = PolicyTarget(kind=TargetKind.SERVICE, namespace="shop", name="web")


def service(name: str, *endpoints: SocketAddress, app_protocol: str = "") -> Service:
    """A service of plain endpoints on loopback."""
    return Service(
        key=ServiceKey(f"shop/{name}"),
        name=name,
        namespace="shop",
        hostname=f"{name}.shop.svc.cluster.local",
        addresses=(parse_ip("10.96.0.1"),) if name == "web" else (),
        ports=(ServicePort(port=PORT, app_protocol=app_protocol),),
        endpoints=tuple(
            Endpoint(address=item.ip, workload=None, ports={PORT: item.port}) for item in endpoints
        ),
        waypoint=WAYPOINT if name == "web" else "",
    )


def loopback(port: int) -> SocketAddress:
    return SocketAddress(parse_ip("127.0.0.1"), port)


def authentication(*rules: JwtRule) -> RequestAuthentication:
    """A RequestAuthentication of the service."""
    return RequestAuthentication(
        key=PolicyKey("shop/tokens"),
        namespace="shop",
        name="tokens",
        scope=PolicyScope.TARGET,
        rules=rules,
        targets=(TARGET,),
    )


@dataclass(slots=True, kw_only=True)
class Scene:
    """A running proxy; clients connect to `port`, or with HTTP/2 to `port_h2`."""

    proxy: Proxy
    state: WorkerState
    keys: KeyRing
    port: int
    port_h2: int
    records: list[RequestRecord]
    counts: Counter[tuple[str, tuple[str, ...]]]
    h2_lane: Http2Lane | None = None

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def connect_h2(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port_h2))

    async def ask(self, data: bytes) -> bytes:
        """Send bytes and read all that is answered."""
        async with await self.connect() as client:
            client.send(data)
            client.writer.write_eof()
            return await client.read_all()

    async def get(self, path: str = "/", *headers: str) -> tuple[int, bytes, bytes]:
        """Status, head and body of a GET."""
        fields = "".join(f"{header}\r\n" for header in headers)
        request = f"GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{fields}\r\n"
        head, _, body = (await self.ask(request.encode("latin-1"))).partition(b"\r\n\r\n")
        return int(head.split()[1]), head.lower(), body


@dataclass(slots=True, kw_only=True)
class Script:
    """What a scene is made of."""

    policies: Sequence[AuthorizationPolicy] = ()
    authentications: Sequence[RequestAuthentication] = ()
    providers: Sequence[ExternalAuthorizer] = ()
    services: Sequence[Service] = ()
    app_protocol: str = ""
    limits: ProxyLimits = field(default_factory=ProxyLimits)
    snapshot: MeshSnapshot | None = None
    vantage: Vantage = field(default_factory=Vantage)
    direct: bool = False
    """The first server is a pod that is dialled at its own address."""
    dialled: SocketAddress | None = None
    """Where instead."""

    def build(self, ports: Iterable[int]) -> MeshSnapshot:
        targets = [loopback(port) for port in ports]
        web = service("web", *targets, app_protocol=self.app_protocol)
        base = self.snapshot or MeshSnapshot(revision=1)
        return replace(
            base,
            settings=MeshSettings(providers=tuple(self.providers)),
            services={item.key: item for item in (web, *self.services)},
            workloads={POD.uid: POD} if self.direct else {},
            policies={item.key: item for item in self.policies},
            request_authentications={item.key: item for item in self.authentications},
        )

    def origin(self, snapshot: MeshSnapshot, ports: Sequence[int]) -> Origin:
        """What every client dials."""
        return Origin(
            principal=CALLER,
            client=SocketAddress(parse_ip("10.0.0.9"), 0),
            dialled=self.dialled or (loopback(ports[0]) if self.direct else VIP),
            service=None if self.direct else snapshot.services[ServiceKey("shop/web")],
            workload=POD if self.direct else None,
            src=party(None, CALLER),
        )


@contextlib.asynccontextmanager
async def scene(*handlers: Handler, script: Script) -> AsyncIterator[Scene]:
    """Run a proxy for service `shop/web`; each handler is a server that becomes its endpoint."""
    loop = asyncio.get_running_loop()
    records: list[RequestRecord] = []
    counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(serving(handler)) for handler in handlers]
        keys = await stack.enter_async_context(_key_ring())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())

        def spawn(work: Coroutine[None, None, None]) -> None:
            tasks.create_task(work)

        flushes = FlushQueue(loop)
        pool = Pool(loop, TcpConnector(loop), script.limits, spawn, flushes)
        outside = _outside(keys, pool, tasks, counts)
        state = WorkerState(WAYPOINT, Random(5), keys, outside, script.vantage)
        state.replace_snapshot(script.build(ports))
        proxy = Proxy(
            loop,
            limits=script.limits,
            pool=pool,
            router=state,
            record=records.append,
            random=Random(7),
            identity=OWN,
        )
        stack.callback(pool.close_all)
        pool.h2_lane = h2_lane = _h2_lane(proxy, state, script.limits)
        origin = script.origin(state.snapshot, ports)
        port, port_h2 = await _listen(proxy, origin, flushes, script.limits, h2_lane, stack)
        yield Scene(
            proxy=proxy,
            state=state,
            keys=keys,
            port=port,
            port_h2=port_h2,
            records=records,
            counts=counts,
            h2_lane=h2_lane,
        )


def _outside(
    keys: KeyRing,
    pool: Pool,
    tasks: asyncio.TaskGroup,
    counts: Counter[tuple[str, tuple[str, ...]]],
) -> Outside:
    def count(name: str, labels: tuple[str, ...]) -> None:
        counts[(name, labels)] += 1

    return Outside(
        keys=keys,
        authorizers=Authorizers(lambda: pool, Random(3)),
        spawn=tasks.create_task,
        epoch_s=time.time,
        count=count,
    )


@contextlib.asynccontextmanager
async def _key_ring() -> AsyncIterator[KeyRing]:
    fetcher = KeyFetcher()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(fetcher.close)
        yield await stack.enter_async_context(KeyRing(fetcher, Random(1)).run())


def _h2_lane(proxy: Proxy, state: WorkerState, limits: ProxyLimits) -> Http2Lane | None:
    if not USE_H2_LANE.get():
        return None
    loop = asyncio.get_running_loop()
    lane = Http2Lane(loop, limits=limits, decider=state, proxy=proxy, random=Random(7))
    lane.watch(LogMode.ERRORS, tapped=False)
    return lane


async def _listen(
    proxy: Proxy,
    origin: Origin,
    flushes: FlushQueue,
    limits: ProxyLimits,
    h2_lane: Http2Lane | None,
    stack: contextlib.AsyncExitStack,
) -> tuple[int, int]:
    """Ports for HTTP/1.1 and HTTP/2; `stack` closes them."""
    loop = asyncio.get_running_loop()
    first = await loop.create_server(
        lambda: Http1Server(loop, proxy, origin, limits, lambda _: None, flushes), "127.0.0.1", 0
    )
    stack.callback(first.close)
    second = await loop.create_server(
        lambda: Http2Server(loop, proxy, origin, limits, lambda _: None, h2_lane), "127.0.0.1", 0
    )
    stack.callback(second.close)
    return first.sockets[0].getsockname()[1], second.sockets[0].getsockname()[1]
