"""The waypoint beside Envoy and nginx: rate, latency, CPU, memory."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.model import Peer
from bench.plan import Cores, Plan
from bench.scenario import Scenario, Suite, Values
from bench.waypoint.load import parse_h2load, parse_wrk
from bench.waypoint.objects import HOST
from bench.waypoint.stand import Stand, build_stand

HTTP1, HTTP2 = 80, 81
HEADERS = {
    "User-Agent": "bench/1.0",
    "Accept": "*/*",
    "Accept-Encoding": "gzip",
    "Cookie": "session=0123456789abcdef",
}
REQUEST = (
    "GET /api/items?id=5 HTTP/1.1\r\nHost: web.shop\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    + "\r\n"
).encode()
STREAMS = 32
WARM_UP_S = 0.3
SETTLE_S = 0.5
BODY_CONNECTIONS = 8


def waypoint_suite(plan: Plan, cores: Cores, tools: Path) -> Suite:
    """Everything that sends requests through a proxy."""

    @contextmanager
    def build() -> Iterator[Sequence[Scenario]]:
        with build_stand(cores, tools) as stand:
            yield scenarios(stand, plan)

    return Suite(name="waypoint", prefixes=("waypoint",), build=build)


def scenarios(stand: Stand, plan: Plan) -> list[Scenario]:
    found: list[Scenario] = []

    def add(name: str, port: int, rounds: int, measure: Callable[[Peer], Values]) -> None:
        peers = stand.peers(port)
        found.append(Scenario(name=f"waypoint/{name}", peers=peers, rounds=rounds, measure=measure))

    seconds = plan.request_s

    def http1(path: str, connections: int) -> Callable[[Peer], Values]:
        return lambda peer: _wrk(stand, peer, path, connections, seconds)

    def http2(connections: int, streams: int, *extra: str) -> Callable[[Peer], Values]:
        return lambda peer: _h2load(stand, peer, (connections, streams), extra, seconds)

    for count in plan.connections:
        add(f"http1/{count}-connections", HTTP1, plan.rounds, http1("/api/items?id=5", count))
    for size in plan.body_bytes:
        path = f"/bytes/{size}"
        add(f"http1/{size}-bytes", HTTP1, plan.rounds, http1(path, BODY_CONNECTIONS))
    for count in plan.connections:
        add(f"http2/{count}-connections", HTTP2, plan.rounds, http2(count, 1, "/api/items?id=5"))
    add("http2/1-connection-32-streams", HTTP2, plan.rounds, http2(1, STREAMS, "/api/items?id=5"))
    for size in plan.body_bytes:
        add(f"http2/{size}-bytes", HTTP2, plan.rounds, http2(BODY_CONNECTIONS, 1, f"/bytes/{size}"))
    for name, count, size in (("unary", 32, 64), ("streaming", 8, 256 * 1024)):
        body = stand.file(f"grpc-{name}", _messages(size))
        grpc = ("/bench.Echo/Call", "-d", str(body), "-H", "content-type: application/grpc")
        add(f"grpc/{name}", HTTP2, plan.rounds, http2(count, 1, *grpc, "-H", "te: trailers"))
    idle = plan.idle_clients
    add(f"idle/{idle}-clients", HTTP1, plan.idle_rounds, lambda peer: _idle(stand, peer, idle))
    return found


def _messages(size: int) -> bytes:
    """gRPC messages of 16 KiB, or one smaller."""
    each = min(size, 16 * 1024)
    return (b"\0" + each.to_bytes(4, "big") + b"x" * each) * max(1, size // each)


def _wrk(stand: Stand, peer: Peer, path: str, connections: int, seconds: float) -> Values:
    port = stand.proxies[peer].ports[HTTP1]
    headers = [f"-H{name}: {value}" for name, value in HEADERS.items()]
    argv = ["wrk", "-t1", f"-c{connections}", "--latency", *headers, "-H", "Host: web.shop"]
    url = f"http://{HOST}:{port}{path}"

    def run(time_s: float) -> Mapping[str, float]:
        # wrk counts whole seconds only.
        return parse_wrk(stand.load([*argv, f"-d{max(1, round(time_s))}s", url], time_s + 30))

    return _measured(stand, peer, run, seconds)


def _h2load(
    stand: Stand, peer: Peer, shape: tuple[int, int], extra: Sequence[str], seconds: float
) -> Values:
    port = stand.proxies[peer].ports[HTTP2]
    path, *options = extra
    connections, streams = shape
    url = f"http://{HOST}:{port}{path}"

    def run(time_s: float) -> Mapping[str, float]:
        log = stand.file("h2load.log", b"")
        shaped = ["-t1", f"-c{connections}", f"-m{streams}", f"-D{max(1, round(time_s))}"]
        argv = ["h2load", *shaped, f"--log-file={log}", *options, url]
        return parse_h2load(stand.load(argv, time_s + 30), log)

    return _measured(stand, peer, run, seconds)


def _measured(
    stand: Stand, peer: Peer, run: Callable[[float], Mapping[str, float]], seconds: float
) -> Values:
    """Rate and quantiles, with the CPU time that the proxy took for them."""
    proxy = stand.proxies[peer]
    run(WARM_UP_S)
    before = proxy.cpu_s()
    values = dict(run(seconds))
    used = proxy.cpu_s() - before
    values["cpu_s_per_1000"] = used * 1000 / values.pop("requests")
    return values


def _idle(stand: Stand, peer: Peer, count: int) -> Values:
    """Resident memory of connections that made one request and wait."""
    proxy = stand.proxies[peer]
    address = (HOST, proxy.ports[HTTP1])
    before = proxy.resident_bytes()
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(address, 10))
            sock.sendall(REQUEST)
            answer = b""
            while not answer.endswith(b"x" * 128):
                answer += sock.recv(4096) or b"x" * 128
        time.sleep(SETTLE_S)
        held = proxy.resident_bytes() - before
    time.sleep(SETTLE_S)
    return {"kib_per_connection": held / 1024 / count, "base_mib": before / (1 << 20)}
