"""Traffic policies over real sockets and the loop of production."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from mesh.model.address import SocketAddress, parse_ip
from mesh.model.policy import PolicyKey
from mesh.model.routing import ValueMatch
from mesh.model.traffic import (
    Bandwidth,
    CircuitLimits,
    Fault,
    Hedging,
    OutlierDetection,
    PolicyTarget,
    RateLimit,
    RetryOn,
    RetryPolicy,
    TrafficPolicy,
)
from mesh.routing.table import RouteTable
from tests.contract.http1.stage import Handler, RouterOf, Stage, run, stage
from tests.contract.waypoint.test_http2 import curl
from waypoint.resilience.protected import Protected
from waypoint.resilience.protection import Protections
from waypoint.routing.plan import Router
from waypoint.routing.route_router import RouteRouter
from waypoint.upstream.endpoints import Endpoints

GET = b"GET / HTTP/1.1\r\nHost: w\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
POLICY = TrafficPolicy(
    key=PolicyKey("shop/p"),
    namespace="shop",
    name="p",
    targets=(PolicyTarget(group="", kind="Service", name="web"),),
)


def under(policy: TrafficPolicy) -> RouterOf:
    """A router of the stage's service under a policy."""

    def make(endpoints: Endpoints) -> Router:
        snapshot = replace(endpoints.snapshot, traffic_policies={policy.key: policy})
        protections = Protections(Random(5), time.monotonic)
        protections.follow(snapshot)
        protected = Protected(protections, snapshot.services)
        table = RouteTable.compile(snapshot)
        return RouteRouter(endpoints, table, Random(5), protected=protected)

    return make


def serving(say: Callable[[bytes], bytes], seen: list[bytes], wait_s: float = 0.0) -> Handler:
    """A server that keeps its connections; an empty answer closes instead."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head)
            await asyncio.sleep(wait_s)
            answer = say(head)
            if not answer:
                return
            writer.write(answer)
            await writer.drain()

    return handle


def flags(here: Stage) -> Counter[str]:
    return Counter(str(record.flag) for record in here.records)


@pytest.mark.parametrize("bad", [b"", BUSY])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_retry_finds_the_other_server_but_never_for_a_post(bad: bytes, method: str) -> None:
    async def main() -> None:
        good_seen: list[bytes] = []
        bad_seen: list[bytes] = []
        retry = RetryPolicy(attempts=2, on=frozenset({RetryOn.RESET, RetryOn.GATEWAY_ERROR}))
        servers = serving(lambda _: bad, bad_seen), serving(lambda _: OK, good_seen)
        async with stage(*servers, router=under(replace(POLICY, retry=retry))) as here:
            request = GET.replace(b"GET", method.encode())
            answers = Counter([(await here.ask(request))[9:12] for _ in range(12)])
            assert bad_seen
            assert good_seen
            if method == "GET":
                assert answers == Counter({b"200": 12})
            else:
                assert answers == Counter({b"200": len(good_seen), b"503": len(bad_seen)})
                assert len(good_seen) + len(bad_seen) == 12

    run(main())


def test_a_bad_server_is_left_out() -> None:
    async def main() -> None:
        good_seen: list[bytes] = []
        bad_seen: list[bytes] = []
        judge = OutlierDetection(consecutive_failures=2, base_ejection_s=60)
        servers = serving(lambda _: BUSY, bad_seen), serving(lambda _: OK, good_seen)
        policy = replace(POLICY, outlier_detection=judge)
        async with stage(*servers, router=under(policy)) as here:
            for _ in range(40):
                await here.ask(GET)
            assert (len(bad_seen), len(good_seen)) == (2, 38)

    run(main())


def test_a_hedge_overtakes_and_the_loser_is_cut() -> None:
    async def main() -> None:
        cut = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            try:
                await reader.read()
            finally:
                cut.set()

        seen: list[bytes] = []
        policy = replace(POLICY, hedging=Hedging(after_s=0.05))
        async with stage(hang, serving(lambda _: OK, seen), router=under(policy)) as here:
            for _ in range(8):  # one of them begins at the server that hangs
                assert (await here.ask(GET)).endswith(b"ok")
            async with asyncio.timeout(30):
                await cut.wait()
            assert 2 in {record.tries for record in here.records}
            assert len(seen) == 8

    run(main())


def test_connections_are_shared_by_those_that_wait() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        open_now = [0, 0]

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_now[0] += 1
            open_now[1] = max(open_now)
            try:
                await serving(lambda _: OK, seen, 0.02)(reader, writer)
            finally:
                open_now[0] -= 1

        policy = replace(POLICY, limits=CircuitLimits(max_connections=2))
        async with stage(count, router=under(policy)) as here:
            async with asyncio.TaskGroup() as tasks:
                sent = [tasks.create_task(here.ask(GET)) for _ in range(20)]
            assert all(each.result().endswith(b"ok") for each in sent)
            assert open_now[1] == 2

    run(main())


def test_limits_towards_http2_servers() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with stage(serving(lambda _: OK, seen, 0.3)) as inner:
            address = SocketAddress(parse_ip("127.0.0.1"), inner.port_h2)
            policy = replace(POLICY, limits=CircuitLimits(max_requests=3, max_connections=1))
            outer = stage(
                addresses=(address,), app_protocol="kubernetes.io/h2c", router=under(policy)
            )
            async with outer as here:
                async with asyncio.TaskGroup() as tasks:
                    sent = [tasks.create_task(here.ask(GET)) for _ in range(8)]
                answers = Counter(each.result()[9:12] for each in sent)
                assert answers == Counter({b"200": 3, b"503": 5})
                assert flags(here) == Counter({"UO": 5, "-": 3})
                assert (await here.ask(GET)).endswith(b"ok")

    run(main())


def test_a_rate_limit_over_http2_and_http1() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        limit = RateLimit(requests=2, per_s=3600, burst=2, name="few")
        policy = replace(POLICY, rate_limits=(limit,))
        async with stage(serving(lambda _: OK, seen), router=under(policy)) as here:
            url = f"http://127.0.0.1:{here.port_h2}/"
            assert (await curl("--http2-prior-knowledge", url)).endswith("ok")
            assert (await here.ask(GET)).endswith(b"ok")
            assert b"HTTP/1.1 429" in await here.ask(GET)
            refused = await curl("-i", "--http2-prior-knowledge", url)
            assert refused.startswith("HTTP/2 429")
            assert "x-ratelimit-limit: 2" in refused
            assert flags(here) == Counter({"-": 2, "RL": 2})

    run(main())


def test_a_fault_delays_one_and_not_the_others() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        fault = Fault(
            headers=(ValueMatch(name="x-slow", value="1"),), delay_s=2.0, delay_percent=100
        )
        policy = replace(POLICY, faults=(fault,))
        async with stage(serving(lambda _: OK, seen), router=under(policy)) as here:
            slow = GET.replace(b"\r\n\r\n", b"\r\nX-Slow: 1\r\n\r\n")
            began = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                delayed = tasks.create_task(here.ask(slow))
                for _ in range(5):
                    assert (await here.ask(GET)).endswith(b"ok")
                assert not delayed.done()
            assert time.monotonic() - began >= 1.99
            assert flags(here) == Counter({"-": 5, "DI": 1})

    run(main())


@pytest.mark.parametrize("http2", [False, True])
def test_a_paced_body_is_whole_and_slow_and_blocks_nobody(http2: bool) -> None:
    async def main() -> None:
        size = 2_000_000
        body = bytes(range(250)) * (size // 250)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + body)
                await writer.drain()

        policy = replace(POLICY, bandwidth=Bandwidth(response_bytes_per_s=1_500_000))
        async with stage(serve, router=under(policy)) as here:
            late: list[float] = []

            async def beat() -> None:
                while True:
                    before = time.monotonic()
                    await asyncio.sleep(0.01)
                    late.append(time.monotonic() - before)

            began = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                heart = tasks.create_task(beat())
                if http2:
                    url = f"http://127.0.0.1:{here.port_h2}/"
                    said = await curl("-o", "/dev/null", "-w", "%{size_download}",
                                      "--http2-prior-knowledge", url)  # fmt: skip
                    assert said == str(size)
                else:
                    assert (await here.ask(GET)).endswith(body)
                heart.cancel()
            # What was read last is not waited for: at most some 256 KiB reads.
            assert time.monotonic() - began >= 0.6
            assert len(late) >= 5  # the loop went on all the time

    run(main())


def test_a_paced_request_body() -> None:
    async def main() -> None:
        size = 1_500_000

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(size)
            writer.write(OK)
            await writer.drain()

        policy = replace(POLICY, bandwidth=Bandwidth(request_bytes_per_s=1_000_000))
        async with stage(serve, router=under(policy)) as here:
            began = time.monotonic()
            head = b"PUT / HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % size
            assert (await here.ask(head + bytes(size))).endswith(b"ok")
            assert time.monotonic() - began >= 0.6

    run(main())
