"""The waypoint beside Envoy, nginx and HAProxy: rate, latency, CPU, memory."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.model import Peer
from bench.plan import Cores, Plan
from bench.scenario import Lent, Scenario, Suite, Values
from bench.waypoint.hbone import HboneStand
from bench.waypoint.load import HttpLoad
from bench.waypoint.objects import HOST
from bench.waypoint.stand import Ground, Running, Stand, build_ground, present_peers

HTTP1, HTTP2 = 80, 81
HEADERS = {
    "User-Agent": "bench/1.0",
    "Accept": "*/*",
    "Accept-Encoding": "gzip",
    "Cookie": "session=0123456789abcdef",
}
GRPC = {"content-type": "application/grpc", "te": "trailers"}
REQUEST = (
    "GET /api/items?id=5 HTTP/1.1\r\nHost: web.shop\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    + "\r\n"
).encode()
PATH, CALL, STREAM = "/api/items?id=5", "/bench.Echo/Call", "/bench.Echo/Stream"
USUAL = 32
"""Connections, where their number is not what is compared."""
BODY_CONNECTIONS = 8
OPEN_STREAMS = 4
"""At a time on each connection, at a fixed rate and in endless streams."""
UNARY_BYTES, UPLOAD_BYTES, MESSAGE_BYTES = 64, 256 * 1024, 1024
SETTLE_S = 0.5
WARM_REQUESTS = 20
PROCESS_S = 0.1
"""Of starting the load generator and connecting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One scenario: what is asked, and of whom besides ours and Envoy."""

    name: str
    load: HttpLoad
    others: tuple[Peer, ...] = ()


def waypoint_suite(plan: Plan, cores: Cores, tools: Path) -> Suite:
    """Requests through a proxy, without tunnels."""
    lent: Lent[Stand] = Lent()
    there = present_peers()

    @contextmanager
    def build() -> Iterator[None]:
        with build_ground(cores, tools) as ground, lent.lend(Stand(ground, there)):
            yield

    def proxy_of(peer: Peer) -> tuple[Ground, Running]:
        return lent.now.ground, lent.now.proxies[peer]

    asked = [*_http1(plan), *_http2(plan), *_grpc(plan), *_at_a_rate(plan)]
    wanted = (Peer.OURS, Peer.ENVOY, Peer.NGINX) if plan.all_peers else (Peer.OURS, Peer.ENVOY)
    found = [_scenario("waypoint", one, there, plan, proxy_of) for one in asked]
    count = plan.idle_clients
    idle = Scenario(
        name=f"waypoint/idle/{count}-clients",
        peers=[peer for peer in there if peer in wanted],
        rounds=plan.idle_rounds,
        measure=lambda peer: _idle(lent.now, peer, count),
        round_s=2.5,
    )
    return Suite(name="waypoint", scenarios=[*found, idle], build=build, setup_s=2.5)


def hbone_suite(plan: Plan, cores: Cores, tools: Path) -> Suite:
    """Requests through a waypoint between tunnels."""
    lent: Lent[HboneStand] = Lent()
    there = [peer for peer in present_peers() if peer in (Peer.OURS, Peer.ENVOY)]

    @contextmanager
    def build() -> Iterator[None]:
        with build_ground(cores, tools) as ground, lent.lend(HboneStand(ground, there)):
            yield

    def proxy_of(peer: Peer) -> tuple[Ground, Running]:
        return lent.now.ground, lent.now.proxies[peer]

    asked = [
        Asked(name=f"http1/{USUAL}-connections", load=_plain(USUAL)),
        Asked(name=f"http2/{USUAL}-connections", load=_plain(USUAL, http2=True)),
        Asked(name="grpc/unary", load=_unary()),
        *_at_a_rate(plan),
    ]
    found = [_scenario("waypoint-hbone", one, there, plan, proxy_of) for one in asked]
    return Suite(name="waypoint-hbone", scenarios=found, build=build, setup_s=2.5)


def _scenario(
    group: str,
    asked: Asked,
    there: Sequence[Peer],
    plan: Plan,
    proxy_of: Callable[[Peer], tuple[Ground, Running]],
) -> Scenario:
    wanted = {Peer.OURS, Peer.ENVOY, *asked.others}
    return Scenario(
        name=f"{group}/{asked.name}",
        peers=[peer for peer in there if peer in wanted],
        rounds=plan.rounds,
        measure=lambda peer: _measured(*proxy_of(peer), asked.load, plan),
        round_s=plan.warm_s + plan.request_s + PROCESS_S,
    )


def _plain(
    connections: int, path: str = PATH, *, http2: bool = False, streams: int = 1
) -> HttpLoad:
    return HttpLoad(
        path=path, connections=connections, http2=http2, streams=streams, headers=HEADERS
    )


def _http1(plan: Plan) -> Iterator[Asked]:
    for count in plan.connections:
        others = (Peer.NGINX, *_haproxy(count, plan))
        yield Asked(name=f"http1/{count}-connections", load=_plain(count), others=others)
    for size in plan.body_bytes:
        load = _plain(BODY_CONNECTIONS, f"/bytes/{size}")
        yield Asked(name=f"http1/{size}-bytes", load=load, others=(Peer.NGINX,))


def _http2(plan: Plan) -> Iterator[Asked]:
    for count in plan.connections:
        load = _plain(count, http2=True)
        others = _haproxy(count, plan)
        yield Asked(name=f"http2/{count}-connections", load=load, others=others)
    for streams in plan.streams_at_once:
        load = _plain(1, http2=True, streams=streams)
        yield Asked(name=f"http2/1-connection-{streams}-streams", load=load)
    for size in plan.body_bytes:
        load = _plain(BODY_CONNECTIONS, f"/bytes/{size}", http2=True)
        yield Asked(name=f"http2/{size}-bytes", load=load)


def _haproxy(connections: int, plan: Plan) -> tuple[Peer, ...]:
    return (Peer.HAPROXY,) if connections == USUAL and plan.all_peers else ()


def _unary() -> HttpLoad:
    return HttpLoad(path=CALL, connections=USUAL, http2=True, body=UNARY_BYTES, headers=GRPC)


def _grpc(plan: Plan) -> Iterator[Asked]:
    yield Asked(name="grpc/unary", load=_unary())
    stream = HttpLoad(
        path=STREAM,
        connections=BODY_CONNECTIONS,
        http2=True,
        streams=OPEN_STREAMS,
        message=MESSAGE_BYTES,
        headers=GRPC,
    )
    yield Asked(name="grpc/streaming", load=stream)
    if not plan.all_peers:
        return
    upload = HttpLoad(
        path=CALL, connections=BODY_CONNECTIONS, http2=True, body=UPLOAD_BYTES, headers=GRPC
    )
    yield Asked(name=f"grpc/{UPLOAD_BYTES}-bytes", load=upload)


def _at_a_rate(plan: Plan) -> Iterator[Asked]:
    for rate in plan.rates:
        load = HttpLoad(path=PATH, connections=USUAL, rate=rate, headers=HEADERS)
        yield Asked(name=f"http1/{rate}-per-s", load=load)
        load = HttpLoad(
            path=PATH,
            connections=USUAL // OPEN_STREAMS,
            http2=True,
            streams=OPEN_STREAMS,
            rate=rate,
            headers=HEADERS,
        )
        yield Asked(name=f"http2/{rate}-per-s", load=load)


def _measured(ground: Ground, proxy: Running, load: HttpLoad, plan: Plan) -> Values:
    """Rate and quantiles, with the CPU time that the proxy took for them."""
    port = proxy.ports[HTTP2 if load.http2 else HTTP1]
    before = proxy.cpu_s()
    values = dict(ground.ask(load, port, plan.warm_s, plan.request_s))
    used = proxy.cpu_s() - before
    values["cpu_s_per_1000"] = used * 1000 / values.pop("answered")
    return values


def _idle(stand: Stand, peer: Peer, count: int) -> Values:
    """Resident memory that connections add which made one request and wait.

    A process that served many before would take it from what those left behind.
    """
    with stand.fresh(peer) as proxy, ExitStack() as held:
        address = (HOST, proxy.ports[HTTP1])
        for _ in range(WARM_REQUESTS):
            with _asked_once(address):
                pass
        time.sleep(SETTLE_S)
        before = proxy.resident_bytes()
        for _ in range(count):
            held.enter_context(_asked_once(address))
        time.sleep(SETTLE_S)
        more = proxy.resident_bytes() - before
    return {"kib_per_connection": more / 1024 / count, "base_mib": before / (1 << 20)}


def _asked_once(address: tuple[str, int]) -> socket.socket:
    """A connection that has made one request and got its answer. Raises `OSError`."""
    sock = socket.create_connection(address, 10)
    try:
        sock.sendall(REQUEST)
        answer = b""
        while not answer.endswith(b"x" * 128):
            more = sock.recv(4096)
            if not more:
                raise ConnectionError(f"hung up after {answer!r}")
            answer += more
    except BaseException:
        sock.close()
        raise
    return sock
