"""Two controllers and one Lease, over real HTTP."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from controller.kubernetes.election import LEASE, Clocks, LeaderElection
from controller.lease import LeaseTiming
from mesh.sources.kubernetes.transport import KubeApi
from tests.support.kube_api import KubeApiServer

QUICK = LeaseTiming(duration_s=1.0, renew_within_s=0.6, retry_s=0.05)
TIMEOUT_S = 60.0
NAMESPACE = "meshnode-system"


class Replica:
    """A controller that counts what it writes."""

    def __init__(self, api: KubeApi, name: str, *, skew_s: float = 0.0) -> None:
        self.is_working = False
        self.election = LeaderElection(
            api,
            namespace=NAMESPACE,
            identity=name,
            clocks=Clocks(
                now=time.monotonic, wall=lambda: time.time() + skew_s, random=random.random
            ),
            work=self._work,
            timing=QUICK,
        )

    async def _work(self) -> None:
        self.is_working = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_working = False


def play(script: Callable[[KubeApiServer, Replica, Replica], Awaitable[None]]) -> None:
    async def run() -> None:
        server = KubeApiServer()
        async with (
            asyncio.timeout(TIMEOUT_S),
            server.running(),
            KubeApi(server.access) as one,
            KubeApi(server.access) as two,
        ):
            # Clocks that are five minutes apart change nothing.
            await script(server, Replica(one, "one"), Replica(two, "two", skew_s=-300.0))

    asyncio.run(run())


def holder(server: KubeApiServer) -> object:
    spec = server.store.get("leases.coordination.k8s.io", (NAMESPACE, LEASE))["spec"]
    assert isinstance(spec, dict)
    return spec["holderIdentity"]


async def until(condition: Callable[[], bool]) -> None:
    """Wait; the test's own deadline ends this."""
    while not condition():  # noqa: ASYNC110  (of another task, without an event)
        await asyncio.sleep(0.01)


def test_one_works_and_the_other_takes_over_when_it_ends() -> None:
    async def script(server: KubeApiServer, one: Replica, two: Replica) -> None:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(one.election.run())
            await one.election.leads.wait()
            second = group.create_task(two.election.run())
            await until(lambda: one.is_working)
            await server.wait_asked(f"GET /apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}", 6)
            assert not two.is_working
            assert holder(server) == "one"
            first.cancel()
            await two.election.leads.wait()
            await until(lambda: two.is_working)
            assert not one.is_working
            assert holder(server) == "two"
            second.cancel()
            await asyncio.wait([second])
            assert holder(server) == ""

    play(script)


def test_without_the_api_server_the_leader_stops_and_begins_again_after() -> None:
    async def script(server: KubeApiServer, one: Replica, two: Replica) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(one.election.run())
            await until(lambda: one.is_working)
            server.faults.down = True
            await until(lambda: not one.is_working)
            assert not one.election.leads.is_set()
            server.faults.down = False
            await until(lambda: one.is_working)
            running.cancel()

    play(script)


def test_a_leader_that_hangs_is_replaced_and_never_writes_beside_its_successor() -> None:
    async def script(server: KubeApiServer, one: Replica, two: Replica) -> None:
        seen: list[tuple[bool, bool]] = []

        async def watch() -> None:
            while True:
                seen.append((one.is_working, two.is_working))
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.election.run())]
            await until(lambda: one.is_working)
            tasks.append(group.create_task(watch()))
            # Somebody else's write wins: the one that lost the Lease sees it at its next renewal.
            name, key = "leases.coordination.k8s.io", (NAMESPACE, LEASE)
            lease = server.store.get(name, key)
            spec = lease["spec"]
            assert isinstance(spec, dict)
            server.store.update(
                name, key, {**lease, "spec": {**spec, "holderIdentity": "two"}}, status=False
            )
            await until(lambda: not one.is_working)
            tasks.append(group.create_task(two.election.run()))
            await until(lambda: two.is_working)
            assert (True, True) not in seen
            for task in tasks:
                task.cancel()

    play(script)
