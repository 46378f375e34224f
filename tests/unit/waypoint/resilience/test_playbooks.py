"""Judges and limits of a policy, and what people see of them: in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from mesh.model.identity import SpiffeId
from mesh.resilience.circuit import Resource
from tests.unit.waypoint.answers import details, failing
from tests.unit.waypoint.scene import CALLER, Request, Say, Scene, objects, scene
from tests.unit.waypoint.virtual import play
from waypoint.limits import ProxyLimits
from waypoint.resilience.cluster_state import PolicyCounters, describe
from waypoint.resilience.protection import Vantage

EJECT = "outlierDetection: {consecutiveFailures: 3, baseEjection: 10s, jitter: 0}"


def test_an_endpoint_that_fails_is_left_out_and_comes_back_by_one_probe() -> None:
    async def main() -> None:
        policy = "loadBalancing: {algorithm: RoundRobin}\n" + EJECT
        async with scene(objects(policy)) as here:
            here.behave[1] = lambda _: failing()
            await here.send_many(9)
            assert (await here.send_many(12))[1] == 0
            await asyncio.sleep(10.5)
            assert (await here.send_many(12))[1] == 1  # the probe, which fails
            await asyncio.sleep(10.5)
            assert (await here.send_many(12))[1] == 0  # twice as long
            await asyncio.sleep(10.5)
            here.behave[1] = lambda _: Say()
            assert (await here.send_many(12))[1] >= 4

    play(main())


def test_what_is_known_survives_snapshots_that_do_not_change_it() -> None:
    async def main() -> None:
        async with scene(objects(EJECT)) as here:
            here.behave[1] = lambda _: failing()
            await here.send_many(30)
            assert (await here.send_many(20))[1] == 0
            more = "---\napiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: shop}\n"
            more += "spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n"
            here.follow(objects(EJECT, servers=4, more=more))
            assert (await here.send_many(20))[1] == 0
            here.follow(objects("limits: {maxRequests: 9}"))
            assert (await here.send_many(30))[1] > 0

    play(main())


def test_connections_that_fail_count_and_the_request_goes_elsewhere() -> None:
    async def main() -> None:
        policy = "outlierDetection: {consecutiveFailures: 0, consecutiveLocalFailures: 2}"
        async with scene(objects(policy, servers=2)) as here:
            del here.connector.servers[next(iter(here.connector.servers))]
            replies = [await here.send("POST") for _ in range(12)]
            assert {reply.status for reply in replies} == {200}
            dialled = here.connector.dialled
            assert sum(record.tries == 2 for record in here.records) == 2
            await here.send_many(5)
            assert here.connector.dialled == dialled  # an idle connection is there, no other try

    play(main())


def test_no_endpoint_is_left() -> None:
    async def main() -> None:
        policy = EJECT + "\nloadBalancing: {algorithm: RoundRobin}"
        async with scene(objects(policy, servers=2)) as here:
            here.behave[1] = lambda _: failing()
            await here.send_many(6)
            here.follow(objects(policy, servers=1))
            reply = await here.send()  # the last one is never left out
            assert (reply.status, details(here)) == (503, ("-", "via_upstream"))
            here.follow(objects(policy, servers=0))
            reply = await here.send()
            assert (reply.status, details(here)) == (503, ("UH", "no_healthy_upstream"))

    play(main())


async def at_once(here: Scene, count: int) -> Counter[int]:
    """Statuses of requests sent together."""
    async with asyncio.TaskGroup() as tasks:
        sent = [tasks.create_task(here.send()) for _ in range(count)]
    return Counter([reply.result().status for reply in sent])


@pytest.mark.parametrize(
    ("limits", "passed"),
    [
        ("{maxRequests: 4}", 4),
        ("{maxEndpointRequests: 2}", 6),
        ("{maxConnections: 1, maxPendingRequests: 5}", 5),
    ],
)
def test_what_exceeds_a_limit_is_refused_at_once(limits: str, passed: int) -> None:
    async def main() -> None:
        async with scene(objects(f"limits: {limits}")) as here:
            for number in (1, 2, 3):
                here.behave[number] = lambda _: Say(after_s=5)
            assert await at_once(here, 10) == Counter({200: passed, 503: 10 - passed})
            refused = [record for record in here.records if record.status == 503]
            assert {(str(r.flag), r.details) for r in refused} == {("UO", "overflow")}
            assert await at_once(here, passed) == Counter({200: passed})
            ((_, protection),) = here.protections.active()
            breaker = protection.cluster.breaker
            assert [breaker.active(kind) for kind in (Resource.REQUESTS, Resource.PENDING)] == [
                0,
                0,
            ]

    play(main())


def test_requests_wait_for_the_connections_that_are_allowed() -> None:
    async def main() -> None:
        policy = "limits: {maxEndpointConnections: 2}"
        async with scene(objects(policy, servers=1)) as here:
            here.behave[1] = lambda _: Say(after_s=1)
            assert await at_once(here, 10) == Counter({200: 10})
            assert here.connector.dialled == 2
            last = max(request.at for request in here.seen)
            assert last - here.seen[0].at == pytest.approx(4, abs=0.1)

    play(main())


def test_workers_share_a_limit() -> None:
    async def main() -> None:
        async with scene(objects("limits: {maxRequests: 10}"), vantage=Vantage(workers=4)) as here:
            for number in (1, 2, 3):
                here.behave[number] = lambda _: Say(after_s=5)
            assert (await at_once(here, 10))[200] == 3  # a quarter, rounded up

    play(main())


def test_one_caller_does_not_crowd_out_another() -> None:
    async def main() -> None:
        other = replace(CALLER, service_account="other")
        limits = ProxyLimits(worker_requests=20)
        async with scene(objects(), limits=limits) as here:
            for number in (1, 2, 3):
                here.behave[number] = lambda _: Say(after_s=5)
            async with asyncio.TaskGroup() as tasks:
                greedy = tasks.create_task(at_once(here, 40))
                await asyncio.sleep(1)
                reply = await here.send(caller=other)
            assert reply.status == 200
            assert greedy.result() == Counter({200: 15, 503: 25})
            flags = {(str(r.flag), r.details) for r in here.records if r.status == 503}
            assert flags == {("OM", "overload[over_share]")}
            assert here.proxy.active == 0
            assert await at_once(here, 10) == Counter({200: 10})

    play(main())


def test_the_caller_of_an_exchange_is_its_identity() -> None:
    async def main() -> None:
        def who(request: Request) -> Say:
            return Say(body=b"1" if b"sa/client" in request.head else b"0")

        async with scene(objects("limits: {maxRequests: 5}")) as here:
            for number in (1, 2, 3):
                here.behave[number] = who
            stranger = SpiffeId(trust_domain="t", namespace="n", service_account="s")
            assert (await here.send()).body == b"1"
            assert (await here.send(caller=stranger)).body == b"0"

    play(main())


def test_state_and_counters_of_policies() -> None:
    async def main() -> None:
        policy = (
            EJECT
            + "\nloadBalancing: {algorithm: RoundRobin}\nlimits: {maxRequests: 2, maxRetries: 1}"
            + "\nretry: {attempts: 1, codes: [503]}\nrateLimits: [{requests: 12, per: 1h, name: r}]"
        )
        async with scene(objects(policy)) as here:
            counts: Counter[tuple[str, tuple[str, ...]]] = Counter()

            def count(metric: str, labels: tuple[str, ...], events: int) -> None:
                counts[(metric, labels)] += events

            counters = PolicyCounters(count)
            here.behave[1] = lambda _: failing()
            await here.send_many(10)
            for number in (2, 3):
                here.behave[number] = lambda _: Say(after_s=2)
            counters.tell(here.protections, here.proxy.fair)
            assert await at_once(here, 4) == Counter({200: 2, 429: 2})
            for _ in range(3):
                counters.tell(here.protections, here.proxy.fair)
            assert counts[("meshnode_waypoint_ejections_total", ("shop/api",))] == 1
            assert counts[("meshnode_waypoint_retries_total", ("shop/api", "made"))] == 3
            limits = "meshnode_waypoint_rate_limit_requests_total"
            assert counts[(limits, ("shop/p/r", "passed"))] == 12
            assert counts[(limits, ("shop/p/r", "limited"))] == 2
            (state,) = describe(here.protections, here.proxy.now())
            assert (state.service, state.port, state.algorithm) == ("shop/api", 80, "RoundRobin")
            assert state.policies["limits"] == "shop/p"
            assert [each.state for each in state.endpoints] == ["ejected", "healthy", "healthy"]
            assert 0 < state.endpoints[0].ejected_s <= 10
            assert (state.limits["requests"].active, state.limits["requests"].most) == (0, 2)
            assert state.limits["connections"].active == 2
            assert [(rate.name, rate.limited) for rate in state.rate_limits] == [("shop/p/r", 2)]

    play(main())
