"""Two workers of one waypoint under one policy: together they let through what the limit says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import CircuitLimits, RateLimit, TrafficPolicy
from tests.contract.http1.stage import Handler, run, serving
from tests.contract.waypoint.scene import Scene, Script, loopback, scene, service
from tests.contract.waypoint.test_traffic_policy import OK, POLICY
from waypoint.resilience.protection import Vantage
from waypoint.shared.select import new_memory, open_sharing

WEB = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def two_workers(
    policy: TrafficPolicy, handler: Handler
) -> AsyncIterator[tuple[Scene, Scene]]:
    memory = new_memory(2)
    assert memory is not None
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(memory.close)
        port = await stack.enter_async_context(serving(handler))
        snapshot = MeshSnapshot(revision=1, traffic_policies={policy.key: policy})
        web = service("web", loopback(port))
        found = []
        for worker in (0, 1):
            sharing = open_sharing(memory.descriptor, worker)
            vantage = Vantage(workers=2, sharing=sharing)
            script = Script(services=(web,), snapshot=snapshot, vantage=vantage)
            found.append(await stack.enter_async_context(scene(script=script)))
        yield found[0], found[1]


class Gate:
    """A server that answers when told to, and knows how many wait."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = self.most = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            await self.opened.wait()
            self.waiting -= 1
            writer.write(OK)
            await writer.drain()


async def status(here: Scene) -> int:
    return int((await here.ask(WEB)).split()[1])


def test_a_rate_limit_is_one_for_both() -> None:
    async def main() -> None:
        gate = Gate()
        gate.opened.set()
        limit = RateLimit(requests=9, per_s=3600.0, burst=9)
        async with two_workers(replace(POLICY, rate_limits=(limit,)), gate.handle) as (one, other):
            found = [await status(one) for _ in range(7)]
            assert found == [200] * 7  # more than its part
            found = [await status(other) for _ in range(4)]
            assert found == [200, 200, 429, 429]
            assert await status(one) == 429

    run(main())


def test_requests_under_way_are_counted_together() -> None:
    async def main() -> None:
        gate = Gate()
        limits = CircuitLimits(max_requests=3)
        async with two_workers(replace(POLICY, limits=limits), gate.handle) as (one, other):
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(status(one)) for _ in range(3)]
                async with asyncio.timeout(30):
                    while gate.waiting < 3:  # noqa: ASYNC110 - nothing tells a test of it
                        await asyncio.sleep(0.01)
                assert await status(other) == 503
                assert other.records[-1].flag == "UO"
                gate.opened.set()
            assert [task.result() for task in asked] == [200, 200, 200]
            assert await status(other) == 200

    run(main())


def test_a_connection_that_another_worker_gives_back_is_used() -> None:
    """The limit leaves each worker its first connection to an endpoint; a second one has to wait
    until the other worker's ends."""

    async def main() -> None:
        gate = Gate()
        limits = CircuitLimits(max_connections=3)
        async with two_workers(replace(POLICY, limits=limits), gate.handle) as (one, other):
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(status(one)) for _ in range(2)]
                async with asyncio.timeout(30):
                    while gate.waiting < 2:  # noqa: ASYNC110 - nothing tells a test of it
                        await asyncio.sleep(0.01)
                asked += [tasks.create_task(status(other)) for _ in range(2)]
                async with asyncio.timeout(30):
                    while gate.waiting < 3 or other.proxy.active < 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                gate.opened.set()
            assert [task.result() for task in asked] == [200] * 4
        assert gate.most == 3

    run(main())
