"""Choice of endpoints: from YAML to bytes, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.unit.waypoint.answers import failing
from tests.unit.waypoint.scene import Say, objects, scene
from tests.unit.waypoint.virtual import play
from waypoint.resilience.protection import Vantage


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
