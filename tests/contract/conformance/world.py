"""A case's objects, its backends on loopback, and a worker's data path between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from random import Random

from mesh.hbone.authority import Authority
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.identity import SpiffeId
from mesh.model.request import RequestRecord
from mesh.model.snapshot import MeshSnapshot, Severity
from mesh.model.workload import ServiceKey
from mesh.routing.table import RouteTable
from mesh.tunnel.contract import TunnelSettings
from mesh.tunnel.python_engine import PythonTunnelEngine
from tests.contract.conformance.backends import Board, running
from tests.unit.mesh.routing import build
from tests.unit.mesh.routing.conformance.model import CONSUMER, NAMESPACE, Ask, Case, Dial
from waypoint.codec.flush_queue import FlushQueue
from waypoint.contract import Origin
from waypoint.downstream.front import Front
from waypoint.downstream.inbound import find_origin
from waypoint.exchange.proxy import Proxy
from waypoint.limits import ProxyLimits
from waypoint.routing.route_router import RouteRouter
from waypoint.upstream.connect_tcp import TcpConnector
from waypoint.upstream.endpoints import Endpoints
from waypoint.upstream.pool import Pool
from waypoint.upstream.target import Target
from waypoint.upstream.tunnels import dial

WAYPOINT = "mesh/waypoint"
OWN = SpiffeId(trust_domain="cluster.local", namespace="mesh", service_account="waypoint")
OTHER = "gateway-conformance-web-backend"
_PORTS = ("http", "http-alt", "https", "tcp", "grpc", "ws")
_NAMESPACES = "".join(
    f"---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n"
    "  labels: {meshnode.io/use-waypoint: waypoint, meshnode.io/use-waypoint-namespace: mesh}\n"
    for name in (NAMESPACE, CONSUMER, OTHER)
)


@dataclass(frozen=True, slots=True)
class Pod:
    """A backend: its name, namespace, address and the services it belongs to."""

    name: str
    address: str
    services: tuple[str, ...]
    namespace: str = NAMESPACE


PODS = (
    Pod("echo-v1", "127.0.0.11", ("echo", "echo-v1")),
    Pod("echo-v2", "127.0.0.12", ("echo", "echo-v2")),
    Pod("echo-v3", "127.0.0.13", ("echo-v3",)),
    Pod("web-backend", "127.0.0.14", ("web-backend",), OTHER),
)


def _objects(ports: Mapping[str, tuple[int, int]]) -> str:
    """Pods, and the slices that make them endpoints on the ports that they listen on."""
    texts = [_NAMESPACES]
    for pod in PODS:
        texts.append(
            f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod.name},"
            f" namespace: {pod.namespace}}}\nspec: {{nodeName: a}}\n"
            f"status: {{phase: Running, podIP: {pod.address},"
            f" podIPs: [{{ip: {pod.address}}}], conditions: [{{type: Ready, status: 'True'}}]}}\n"
        )
        names = ("",) if pod.namespace == OTHER else _PORTS
        plain, secure = ports[pod.name]
        listed = ", ".join(
            f"{{name: '{name}', port: {secure if name == 'https' else plain}}}" for name in names
        )
        texts += [
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
            f"metadata: {{name: {service}-{pod.name}, namespace: {pod.namespace},"
            f" labels: {{kubernetes.io/service-name: {service}}}}}\n"
            f"addressType: IPv4\nports: [{listed}]\nendpoints: [{{addresses: [{pod.address}]}}]\n"
            for service in pod.services
        ]
    return "".join(texts)


class PlainSockets:
    """`waypoint.downstream.front.SocketOpener` for endpoints outside the mesh."""

    async def open_socket(self, target: Target) -> socket.socket:
        return await dial(asyncio.get_running_loop(), target.key.address)


@dataclass(slots=True, kw_only=True)
class World:
    """A running case."""

    snapshot: MeshSnapshot
    board: Board
    ports: Mapping[str, tuple[int, int]]
    front: Front
    records: list[RequestRecord]
    spawn: Callable[[Coroutine[None, None, None]], None]
    _stack: contextlib.AsyncExitStack

    def origin(self, caller: str, to: Authority) -> Origin:
        """What a tunnel of a caller's node would be judged to want."""
        identity = SpiffeId(trust_domain="cluster.local", namespace=caller, service_account="app")
        client = SocketAddress(parse_ip("10.0.0.9"), 40000)
        origin = find_origin(self.snapshot, WAYPOINT, identity, client, to)
        assert origin is not None
        return origin

    def address(self, ask: Ask | Dial) -> SocketAddress:
        """What the client's application dials: a service's virtual address, or a pod's own."""
        if isinstance(ask, Ask) and ask.pod:
            pod = next(pod for pod in PODS if pod.name == ask.pod)
            return SocketAddress(parse_ip(pod.address), self.ports[pod.name][0])
        found = self.snapshot.services[ServiceKey(f"{NAMESPACE}/{ask.service}")]
        return SocketAddress(found.addresses[0], ask.port)

    async def connect(
        self, caller: str, to: SocketAddress, server_name: str = ""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect as the tunnel does: the proxy gets the other end of a pair of sockets.

        With a server name, the client speaks TLS.
        """
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(False)
        self.spawn(self.front.serve(outer, self.origin(caller, to)))
        if server_name:
            reader, writer = await asyncio.open_unix_connection(
                sock=inner, ssl=_client_context(), server_hostname=server_name
            )
        else:
            reader, writer = await asyncio.open_unix_connection(sock=inner)
        self._stack.push_async_callback(_close, writer)
        return reader, writer


def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def read(text: str, *, strict: bool = True) -> MeshSnapshot:
    """Read objects; none may be unreadable, if `strict`."""
    snapshot = build.read(text)
    errors = [item for item in snapshot.problems if item.severity is Severity.ERROR]
    assert errors == [] or not strict
    return snapshot


@contextlib.asynccontextmanager
async def world(case: Case, *, strict: bool = True) -> AsyncIterator[World]:
    """Run a case's backends and a proxy with its objects; `strict`: all of them must be sound."""
    loop = asyncio.get_running_loop()
    board = Board()
    records: list[RequestRecord] = []
    async with contextlib.AsyncExitStack() as stack:
        ports = {
            pod.name: await stack.enter_async_context(running(pod.name, pod.address, board))
            for pod in PODS
        }
        snapshot = read(case.objects + _objects(ports), strict=strict)
        engine = PythonTunnelEngine(loop, TunnelSettings(), "nghttp2")
        stack.push_async_callback(engine.aclose)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())

        def spawn(work: Coroutine[None, None, None]) -> None:
            tasks.create_task(work)

        random = Random(case.name)
        table = RouteTable.compile(snapshot, grants_required=case.grants)
        router = RouteRouter(Endpoints(snapshot), table, random)
        yield World(
            snapshot=snapshot,
            board=board,
            ports=ports,
            front=_front(engine, router, random, records, spawn, stack),
            records=records,
            spawn=spawn,
            _stack=await stack.enter_async_context(contextlib.AsyncExitStack()),
        )


def _front(
    engine: PythonTunnelEngine,
    router: RouteRouter,
    random: Random,
    records: list[RequestRecord],
    spawn: Callable[[Coroutine[None, None, None]], None],
    stack: contextlib.AsyncExitStack,
) -> Front:
    """The data path; `stack` ends its connections to backends."""
    loop = asyncio.get_running_loop()
    limits, flushes = ProxyLimits(), FlushQueue(loop)
    pool = Pool(loop, TcpConnector(loop), limits, spawn, flushes)
    stack.callback(pool.close_all)
    proxy = Proxy(
        loop,
        limits=limits,
        pool=pool,
        router=router,
        record=records.append,
        random=random,
        identity=OWN,
    )
    return Front(
        loop,
        exchanges=proxy,
        limits=limits,
        engine=engine,
        opaque=router,
        opener=PlainSockets(),
        flushes=flushes,
    )


__all__ = ["PODS", "WAYPOINT", "Pod", "World", "read", "world"]
