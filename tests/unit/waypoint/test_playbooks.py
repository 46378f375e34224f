"""Choice of endpoints, judges, limits and sessions: from YAML to bytes, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from mesh.model.identity import SpiffeId
from mesh.resilience.circuit import Resource
from tests.unit.waypoint.scene import CALLER, Request, Say, Scene, objects, scene
from tests.unit.waypoint.virtual import play
from waypoint.cluster_state import PolicyCounters, describe
from waypoint.limits import ProxyLimits
from waypoint.protection import Vantage


def failing(status: int = 503) -> Say:
    return Say(status=status, body=b"no")


def details(here: Scene) -> tuple[str, str]:
    """Flag and details of the newest record."""
    return str(here.records[-1].flag), here.records[-1].details


# --- choice -------------------------------------------------------------------------------------


def test_round_robin_takes_turns() -> None:
    async def main() -> None:
        async with scene(objects("loadBalancing: {algorithm: RoundRobin}")) as here:
            assert await here.send_many(30) == Counter({1: 10, 2: 10, 3: 10})

    play(main())


def test_weights_of_workloads_make_the_turns_weighted() -> None:
    async def main() -> None:
        labels = {1: 'meshnode.io/weight: "3"', 3: 'meshnode.io/weight: "0"'}
        policy = "loadBalancing: {algorithm: RoundRobin}"
        async with scene(objects(policy, labels=labels)) as here:
            assert await here.send_many(40) == Counter({1: 30, 2: 10})

    play(main())


def test_least_request_leaves_a_busy_endpoint_alone() -> None:
    async def main() -> None:
        async with scene(objects("loadBalancing: {}", servers=2)) as here:
            here.behave[1] = lambda _: Say(after_s=100)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(here.send())
                tasks.create_task(here.send())
                tasks.create_task(here.send())
                await asyncio.sleep(1)
                counts = await here.send_many(50)
                assert counts == Counter({2: 50})

    play(main())


def test_the_least_latent_endpoint_gets_the_traffic() -> None:
    async def main() -> None:
        async with scene(objects("loadBalancing: {algorithm: PeakEWMA}")) as here:
            here.behave[2] = lambda _: Say(after_s=2.0)
            counts = await here.send_many(200)
            assert counts[2] < 20

    play(main())


@pytest.mark.parametrize("algorithm", ["RingHash", "Maglev"])
def test_the_same_key_goes_to_the_same_endpoint(algorithm: str) -> None:
    async def main() -> None:
        policy = (
            f"loadBalancing: {{algorithm: {algorithm}, maglev: {{tableSize: 1009}},"
            " hash: [{header: x-user}]}"
        )
        async with scene(objects(policy, servers=5)) as here:
            before: dict[str, int] = {}
            for number in range(40):
                user = {"x-user": f"u{number}"}
                ((server, count),) = (await here.send_many(3, user)).items()
                assert count == 3
                before[user["x-user"]] = server
            assert len(set(before.values())) == 5
            # One endpoint goes: its users move, the others stay (Maglev: nearly all of them).
            here.follow(objects(policy, servers=4))
            moved = 0
            for user_name, server in before.items():
                ((now, _),) = (await here.send_many(1, {"x-user": user_name})).items()
                moved += server != 5 and now != server
            assert moved <= (0 if algorithm == "RingHash" else 6)

    play(main())


def test_a_hash_cookie_is_made_and_kept() -> None:
    async def main() -> None:
        policy = "loadBalancing: {algorithm: RingHash, hash: [{cookie: {name: aff, ttl: 1h}}]}"
        async with scene(objects(policy)) as here:
            first = await here.send()
            cookie = first.headers["set-cookie"].split(";")[0]
            assert "max-age=3600" in first.headers["set-cookie"]
            counts = await here.send_many(10, {"cookie": cookie})
            assert counts == Counter({here.seen[0].server: 10})
            assert "set-cookie" not in (await here.send(fields={"cookie": cookie})).headers

    play(main())


def test_hashing_of_source_and_query() -> None:
    async def main() -> None:
        policy = "loadBalancing: {algorithm: RingHash, hash: [{queryParam: q}, {sourceIP: true}]}"
        async with scene(objects(policy)) as here:
            for number in range(12):
                for last in "bcd":  # the first value of a name counts
                    await here.send(path=f"/?q=a&q={last}", source=f"10.0.0.{number}")
            servers = [request.server for request in here.seen]
            assert all(len(set(servers[n : n + 3])) == 1 for n in range(0, 36, 3))
            assert len(set(servers)) > 1

    play(main())


def test_the_own_zone_serves_until_it_is_too_weak() -> None:
    async def main() -> None:
        zone = "topology.kubernetes.io/zone"
        labels = {1: f"{zone}: a", 2: f"{zone}: a", 3: f"{zone}: b"}
        policy = (
            "loadBalancing: {algorithm: RoundRobin, locality: Zone}\n"
            "outlierDetection: {consecutiveFailures: 1, baseEjection: 1h, maxEjection: 1h}"
        )
        near = Vantage(node="node-1")
        async with scene(objects(policy, labels=labels), vantage=near) as here:
            assert await here.send_many(20) == Counter({1: 10, 2: 10})
            here.behave[1] = lambda _: failing()
            await here.send_many(2)
            # Half of the zone is left: 1.4 times that is what it still takes.
            counts = await here.send_many(300)
            assert counts[1] == 0
            assert 170 < counts[2] < 250
            assert counts[3] == 300 - counts[2]

    play(main())


def test_a_new_endpoint_starts_slowly() -> None:
    async def main() -> None:
        policy = "loadBalancing: {algorithm: RoundRobin, slowStart: {window: 100s}}"
        async with scene(objects(policy, servers=2)) as here:
            assert await here.send_many(20) == Counter({1: 10, 2: 10})
            here.follow(objects(policy, servers=3))
            counts = await here.send_many(21)
            assert 0 < counts[3] <= 2
            await asyncio.sleep(100)
            assert (await here.send_many(30))[3] == 10

    play(main())


# --- judges -------------------------------------------------------------------------------------


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


# --- limits -------------------------------------------------------------------------------------


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


# --- sessions -----------------------------------------------------------------------------------

SESSION_ROUTE = """\
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - backendRefs: [{name: api, port: 80}]
    sessionPersistence: {sessionName: sid}
"""


@pytest.mark.parametrize("by_route", [True, False])
def test_a_session_leads_back_to_its_endpoint(by_route: bool) -> None:
    async def main() -> None:
        policy = "" if by_route else "sessionPersistence: {sessionName: sid}"
        async with scene(objects(policy, more=SESSION_ROUTE if by_route else "")) as here:
            first = await here.send()
            cookie = first.headers["set-cookie"].split(";")[0]
            assert cookie.startswith("sid=")
            home = here.seen[0].server
            assert await here.send_many(20, {"cookie": cookie}) == Counter({home: 20})
            assert len(await here.send_many(40)) == 3

    play(main())


def test_a_session_in_a_header_moves_when_its_endpoint_is_gone() -> None:
    async def main() -> None:
        policy = "sessionPersistence: {type: Header, sessionName: X-Session}"
        async with scene(objects(policy)) as here:
            token = (await here.send()).headers["x-session"]
            home = here.seen[0].server
            assert await here.send_many(9, {"x-session": token}) == Counter({home: 9})
            here.follow(objects(policy, servers=home - 1 or 1) if home > 1 else here.snapshot)
            again = await here.send(fields={"x-session": token})
            if home > 1:
                assert again.headers["x-session"] != token
                assert here.seen[-1].server != home

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


# --- what people see ----------------------------------------------------------------------------


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


CANARY = """\
---
apiVersion: v1
kind: Service
metadata: {name: canary, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  selector: {version: v2}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: meshnode.io/v1alpha1
kind: Workload
metadata: {name: canary, namespace: shop, labels: {version: v2}}
spec: {node: node-9, addresses: [10.1.0.9]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - backendRefs: [{name: api, port: 80, weight: 90}, {name: canary, port: 80, weight: 10}]
    sessionPersistence: {sessionName: sid}
"""


def test_a_session_on_the_canary_stays_there_whatever_the_weights() -> None:
    async def main() -> None:
        async with scene(objects(more=CANARY)) as here:
            cookies: dict[int, str] = {}
            for _ in range(100):
                reply = await here.send()
                cookies[here.seen[-1].server] = reply.headers["set-cookie"].split(";")[0]
            assert set(cookies) == {1, 2, 3, 9}
            for server, cookie in cookies.items():
                assert await here.send_many(20, {"cookie": cookie}) == Counter({server: 20})
            here.follow(objects(more=CANARY.replace("weight: 10", "weight: 0")))
            assert (await here.send_many(20, {"cookie": cookies[9]}))[9] == 0

    play(main())


def test_a_limit_on_the_service_that_was_dialled_holds_for_what_routes_send_elsewhere() -> None:
    async def main() -> None:
        policy = "rateLimits: [{requests: 5, per: 1h}]"
        async with scene(objects(policy, more=CANARY)) as here:
            statuses = Counter([(await here.send()).status for _ in range(20)])
            assert statuses == Counter({429: 15, 200: 5})

    play(main())
