"""Requests per second of the waypoint's HTTP/1.1 data path against Envoy and a direct connection.

One process each for server, proxy and clients, on loopback, in one run:

    python -m bench.waypoint_http1 [--seconds 4] [--connections 32]

The server answers a fixed small reply. The clients keep their connections and send the next
request when the answer is complete. Reported: requests per second, p50 and p99, and CPU time of
the proxy per thousand requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from random import Random

import uvloop
import yaml

from mesh.model.address import SocketAddress, parse_ip
from mesh.model.identity import SpiffeId
from mesh.model.request import RequestRecord
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Endpoint, Service, ServiceKey, ServicePort
from waypoint.codec.flush_queue import FlushQueue
from waypoint.codec.h1_server import Http1Server
from waypoint.contract import Origin
from waypoint.exchange.proxy import Proxy
from waypoint.limits import ProxyLimits
from waypoint.routing.service_router import ServiceRouter
from waypoint.upstream.connect_tcp import TcpConnector
from waypoint.upstream.endpoints import Endpoints
from waypoint.upstream.pool import Pool

REQUEST = (
    b"GET /api/items?id=5 HTTP/1.1\r\nHost: web.shop\r\nUser-Agent: bench/1.0\r\n"
    b"Accept: */*\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n\r\n"
)
BODY = b"x" * 128
ANSWER = (
    b"HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: text/plain\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


class Server(asyncio.Protocol):
    """Answers each head it sees; requests of the bench have no body."""

    def __init__(self) -> None:
        self._tail = b""
        self._write: Callable[[bytes], None] = lambda _data: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = transport.write  # type: ignore[attr-defined] # uvloop's own class

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        self._tail = data[-3:] if not data.endswith(b"\r\n\r\n") else b""
        self._write(ANSWER * data.count(b"\r\n\r\n"))


def serve(port: int) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, HOST, port)
        await server.serve_forever()

    uvloop.run(main())


def proxy(port: int, upstream: int) -> None:
    uvloop.run(_proxy(port, _service(upstream)))


async def _proxy(port: int, service: Service) -> None:
    loop = asyncio.get_running_loop()
    limits = ProxyLimits()
    snapshot = MeshSnapshot(revision=1, services={service.key: service})
    seen: list[RequestRecord] = []

    def record(item: RequestRecord) -> None:
        seen[:] = [item]

    async with asyncio.TaskGroup() as tasks:

        def spawn(work: Coroutine[None, None, None]) -> None:
            tasks.create_task(work)

        flushes = FlushQueue(loop)
        pool = Pool(loop, TcpConnector(loop), limits, spawn, flushes)
        router = ServiceRouter(Endpoints(snapshot))
        path = Proxy(loop, limits=limits, pool=pool, router=router, record=record, random=Random(1))
        origin = _origin(service)
        server = await loop.create_server(
            lambda: Http1Server(loop, path, origin, limits, lambda _: None, flushes), HOST, port
        )
        await server.serve_forever()


def _service(upstream: int) -> Service:
    return Service(
        key=ServiceKey("shop/web"),
        name="web",
        namespace="shop",
        hostname="web.shop",
        addresses=(),
        ports=(ServicePort(port=80),),
        endpoints=(Endpoint(address=parse_ip(HOST), workload=None, ports={80: upstream}),),
    )


def _origin(service: Service) -> Origin:
    return Origin(
        principal=SpiffeId(trust_domain="t", namespace="shop", service_account="c"),
        client=SocketAddress(parse_ip(HOST), 0),
        dialled=SocketAddress(parse_ip("10.96.0.1"), 80),
        service=service,
        workload=None,
    )


def envoy_config(port: int, upstream: int) -> str:
    def address(number: int) -> object:
        return {"socket_address": {"address": HOST, "port_value": number}}

    types = "type.googleapis.com/envoy.extensions"
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "web"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    cluster = {
        "name": "web",
        "load_assignment": {
            "cluster_name": "web",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}],
        },
    }
    listener = {"address": address(port), "filter_chains": [chain]}
    return yaml.safe_dump({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


@contextlib.contextmanager
def running(target: Callable[..., None], *arguments: int) -> Iterator[int]:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    try:
        yield process.pid or 0
    finally:
        process.terminate()
        process.join()


@contextlib.contextmanager
def envoy(port: int, upstream: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "envoy.yaml")
        config.write_text(envoy_config(port, upstream))
        program = Path(sys.prefix, "bin", "envoy")
        argv = [str(program), "-c", str(config), "--concurrency", "1", "-l", "error"]
        argv += ["--disable-hot-restart"]
        with subprocess.Popen(argv) as process:
            try:
                yield process.pid
            finally:
                process.terminate()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


class Client(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, latencies: list[float], until: float) -> None:
        self._latencies = latencies
        self._until = until
        self._read = 0
        self._sent = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._buffer = b""
        self._sent = time.perf_counter()
        self._transport.write(REQUEST)  # type: ignore[attr-defined] # uvloop's own class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._buffer.endswith(BODY):
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def load(port: int, connections: int, seconds: float) -> list[float]:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        latencies: list[float] = []
        until = time.perf_counter() + seconds
        clients = [
            (await loop.create_connection(lambda: Client(latencies, until), HOST, port))[1]
            for _ in range(connections)
        ]
        await asyncio.gather(*(client.done for client in clients))
        return latencies

    return uvloop.run(main())


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, port: int, pid: int, connections: int, seconds: float) -> float:
    wait_for(port)
    load(port, connections, 0.5)
    before = cpu_s(pid)
    latencies = sorted(load(port, connections, seconds))
    cpu = cpu_s(pid) - before
    count = len(latencies)
    rate = count / seconds
    p50, p99 = latencies[count // 2] * 1000, latencies[int(count * 0.99)] * 1000
    per_thousand = cpu * 1e6 / count
    print(f"{name:10} {rate:9.0f} req/s  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  "
          f"CPU {per_thousand:6.1f} ms per 1,000", flush=True)  # fmt: skip
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    upstream, ours, theirs = free_port(), free_port(), free_port()
    with running(serve, upstream) as server:
        wait_for(upstream)
        shape = (options.connections, options.seconds)
        measure("direct", upstream, server, *shape)
        with envoy(theirs, upstream) as pid:
            reference = measure("envoy", theirs, pid, *shape)
        with running(proxy, ours, upstream) as pid:
            rate = measure("waypoint", ours, pid, *shape)
        print(f"waypoint / envoy: {rate / reference:.2f}")


if __name__ == "__main__":
    main()
