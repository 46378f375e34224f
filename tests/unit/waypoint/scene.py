"""A proxy in virtual time: policies from YAML, clients and servers in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

from mesh.model.address import SocketAddress, parse_ip, parse_socket_address
from mesh.model.identity import SpiffeId
from mesh.model.request import RequestRecord
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import ServiceKey
from mesh.routing.table import RouteTable
from mesh.telemetry.party import party
from tests.unit.mesh.routing import build
from tests.unit.waypoint.virtual import PipeConnector, connect_pipe
from waypoint.codec.flush_queue import FlushQueue
from waypoint.codec.h1_server import Http1Server
from waypoint.contract import Origin
from waypoint.exchange.proxy import Proxy
from waypoint.limits import ProxyLimits
from waypoint.resilience.protected import Protected
from waypoint.resilience.protection import Protections, Vantage
from waypoint.routing.route_router import RouteRouter
from waypoint.upstream.endpoints import Endpoints
from waypoint.upstream.pool import Pool

CALLER = SpiffeId(trust_domain="cluster.local", namespace="shop", service_account="client")
API = ServiceKey("shop/api")


@dataclass(slots=True)
class Request:
    """What a server got."""

    server: int
    head: bytes
    at: float

    @property
    def method(self) -> str:
        return self.head.split()[0].decode()


@dataclass(slots=True)
class Say:
    """What a server does: answer after a while, or close without a word (`status` 0)."""

    status: int = 200
    after_s: float = 0.0
    body: bytes = b"ok"
    pieces: int = 1


Behaviour = Callable[[Request], Say]


class Server(asyncio.Protocol):
    """One connection of a server: heads (with small bodies) in, answers out."""

    def __init__(self, number: int, behave: Behaviour, seen: list[Request]) -> None:
        self._number = number
        self._behave = behave
        self._seen = seen
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, rest = self._data.split(b"\r\n\r\n", 1)
            lines = head.lower().split(b"\r\n")
            sizes = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-len")]
            size = sizes[0] if sizes else 0
            if len(rest) < size:
                return
            self._data = rest[size:]
            self._take(head)

    def _take(self, head: bytes) -> None:
        loop = asyncio.get_running_loop()
        request = Request(self._number, head, loop.time())
        self._seen.append(request)
        said = self._behave(request)
        loop.call_later(said.after_s, self._answer, said)

    def _answer(self, said: Say) -> None:
        transport = self._transport
        if transport is None or self.closed:
            return
        if not said.status:
            transport.close()
            return
        head = f"HTTP/1.1 {said.status} X\r\ncontent-length: {len(said.body)}\r\n\r\n"
        transport.write(head.encode())
        for piece in split(said.body, said.pieces):
            transport.write(piece)


def split(data: bytes, count: int) -> list[bytes]:
    """Cut in equal pieces: what arrives at once in reality is a matter of buffers."""
    size = -(-len(data) // count) or 1
    return [data[start : start + size] for start in range(0, len(data), size)]


@dataclass(slots=True)
class Reply:
    """What a client got; status 0 if nothing."""

    status: int
    headers: dict[str, str]
    body: bytes
    took_s: float


class Client(asyncio.Protocol):
    """One connection of a client; collects one answer."""

    def __init__(self) -> None:
        self.data = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end or self.done.done():
            return
        lines = head.lower().split(b"\r\n")
        sizes = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")]
        if not sizes or len(body) >= sizes[0]:
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


@dataclass(slots=True)
class Scene:
    """A running proxy.

    Attributes:
        behave: what each server does; by default it answers 200 at once.
        seen: requests that reached servers.
    """

    proxy: Proxy
    pool: Pool
    connector: PipeConnector
    protections: Protections
    origin: Origin
    router: RouteRouter
    flushes: FlushQueue
    limits: ProxyLimits
    random: Random
    records: list[RequestRecord]
    snapshot: MeshSnapshot
    endpoints: Endpoints
    behave: dict[int, Behaviour] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)
    servers: dict[int, list[Server]] = field(default_factory=dict)

    def follow(self, snapshot: MeshSnapshot) -> None:
        """Take a new snapshot, as a worker does."""
        self.snapshot = snapshot
        self.endpoints = Endpoints(snapshot, self.endpoints)
        self.protections.follow(snapshot)
        self.router = RouteRouter(
            self.endpoints,
            RouteTable.compile(snapshot),
            self.random,
            protected=Protected(self.protections, snapshot.services),
        )
        self.proxy.router = self.router

    def serve(self, *numbers: int) -> None:
        """Let servers listen."""

        def make(number: int) -> Callable[[], asyncio.Protocol]:
            def accept() -> Server:
                def behave(request: Request) -> Say:
                    act = self.behave.get(number)
                    return act(request) if act is not None else Say()

                server = Server(number, behave, self.seen)
                self.servers.setdefault(number, []).append(server)
                return server

            return accept

        for number in numbers:
            self.connector.servers[address(number)] = make(number)

    async def send(
        self, method: str = "GET", path: str = "/", *, body: bytes = b"", pieces: int = 1,
        source: str = "10.0.0.9", caller: SpiffeId = CALLER,
        fields: Mapping[str, str] | None = None,
    ) -> Reply:  # fmt: skip
        """Send one request on a connection of its own."""
        loop = asyncio.get_running_loop()
        client = Client()
        origin = replace(self.origin, client=SocketAddress(parse_ip(source), 0), principal=caller)
        server = Http1Server(loop, self.proxy, origin, self.limits, lambda _: None, self.flushes)
        began = loop.time()
        pipe = connect_pipe(loop, client, server)
        lines = [f"{method} {path} HTTP/1.1", "host: api"]
        lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
        if body:
            lines.append(f"content-length: {len(body)}")
        pipe.write("\r\n".join([*lines, "", ""]).encode())
        for piece in split(body, pieces):
            pipe.write(piece)
        await client.done
        pipe.close()
        return _reply(client.data, loop.time() - began)

    async def send_many(self, count: int, fields: Mapping[str, str] | None = None) -> Counter[int]:
        """Send requests one after another; how many each server got."""
        before = len(self.seen)
        for _ in range(count):
            await self.send(fields=fields)
        return Counter(request.server for request in self.seen[before:])


def _reply(data: bytes, took_s: float) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not data:
        return Reply(0, {}, b"", took_s)
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return Reply(int(lines[0].split()[1]), fields, body, took_s)


def address(number: int) -> SocketAddress:
    """Where a server listens."""
    return parse_socket_address(f"10.1.0.{number}:8080")


def objects(
    policy: str = "", *, servers: int = 3, more: str = "", labels: dict[int, str] | None = None
) -> MeshSnapshot:
    """A service `api` with endpoints, a policy on it (its spec without targets), and more."""
    text = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\n"
        "spec: {clusterIP: 10.96.0.1, selector: {app: api},"
        " ports: [{name: http, port: 80, targetPort: 8080}]}\n"
    )
    for number in range(1, servers + 1):
        extra = f", {labels[number]}" if labels and number in labels else ""
        text += (
            "---\napiVersion: meshnode.io/v1alpha1\nkind: Workload\n"
            f"metadata: {{name: api-{number}, namespace: shop, labels: {{app: api{extra}}}}}\n"
            f"spec: {{node: node-{number}, addresses: [10.1.0.{number}]}}\n"
        )
    if policy:
        text += (
            "---\napiVersion: meshnode.io/v1alpha1\nkind: TrafficPolicy\n"
            "metadata: {name: p, namespace: shop}\n"
            "spec:\n  targetRefs: [{kind: Service, name: api}]\n"
            + "".join(f"  {line}\n" for line in policy.strip().splitlines())
        )
    made = build.read(text + more)
    assert made.problems == (), made.problems
    return made


@asynccontextmanager
async def scene(
    snapshot: MeshSnapshot, *, vantage: Vantage | None = None, limits: ProxyLimits | None = None
) -> AsyncIterator[Scene]:
    """Run a proxy for `api`; servers 1 to 9 listen."""
    loop = asyncio.get_running_loop()
    limits = limits or ProxyLimits()
    random = Random(7)
    async with asyncio.TaskGroup() as tasks:

        def spawn(work: Coroutine[None, None, None]) -> None:
            tasks.create_task(work)

        flushes = FlushQueue(loop)
        connector = PipeConnector(loop)
        pool = Pool(loop, connector, limits, spawn, flushes)
        protections = Protections(random, loop.time, vantage)
        endpoints = Endpoints(snapshot)
        router = RouteRouter(endpoints, RouteTable.compile(snapshot), random)
        records: list[RequestRecord] = []
        proxy = Proxy(
            loop, limits=limits, pool=pool, router=router, record=records.append, random=random,
            now=loop.time,
        )  # fmt: skip
        origin = Origin(
            principal=CALLER,
            client=SocketAddress(parse_ip("10.0.0.9"), 0),
            dialled=SocketAddress(parse_ip("10.96.0.1"), 80),
            service=snapshot.services[API],
            workload=None,
            src=party(None, CALLER),
        )
        made = Scene(
            proxy, pool, connector, protections, origin, router, flushes, limits, random, records,
            snapshot, endpoints,
        )  # fmt: skip
        made.follow(snapshot)
        made.serve(*range(1, 10))
        try:
            yield made
        finally:
            pool.close_all()
            await asyncio.sleep(0)
