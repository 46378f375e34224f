"""What a policy does to single requests: limits, faults, pace."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from tests.unit.waypoint.answers import leaks, marks
from tests.unit.waypoint.scene import CALLER, Say, objects, scene
from tests.unit.waypoint.virtual import play
from waypoint.resilience.protection import Vantage

GRPC = {"content-type": "application/grpc", "te": "trailers"}


def test_a_bucket_refuses_and_says_when_to_come_again() -> None:
    async def main() -> None:
        async with scene(objects("rateLimits: [{requests: 2, per: 10s, name: all}]")) as here:
            statuses = [(await here.send()).status for _ in range(2)]
            refused = await here.send()
            assert (statuses, refused.status) == ([200, 200], 429)
            assert marks(here) == (429, "RL", "rate_limited[shop/p/all]")
            wanted = {
                "retry-after": "5",
                "x-ratelimit-limit": "2",
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": "5",
            }
            assert wanted.items() <= refused.headers.items()
            await asyncio.sleep(5)
            assert (await here.send()).status == 200
            assert (await here.send()).status == 429
            assert len(here.seen) == 3

    play(main())


def test_a_grpc_call_is_told_resource_exhausted() -> None:
    async def main() -> None:
        async with scene(objects("rateLimits: [{requests: 1, per: 1m}]")) as here:
            await here.send()
            refused = await here.send("POST", fields=GRPC)
            assert refused.status == 200
            assert refused.headers["grpc-status"] == "8"
            assert refused.headers["retry-after"] == "60"

    play(main())


def test_buckets_by_identity_and_by_header() -> None:
    async def main() -> None:
        policy = "rateLimits: [{requests: 1, per: 1m, by: Identity}]"
        async with scene(objects(policy)) as here:
            other = replace(CALLER, service_account="other")
            assert [(await here.send()).status for _ in range(2)] == [200, 429]
            assert (await here.send(caller=other)).status == 200
        policy = "rateLimits: [{requests: 1, per: 1m, by: Header, header: X-Tenant}]"
        async with scene(objects(policy)) as here:
            sent = [await here.send(fields={"x-tenant": name}) for name in ("a", "a", "b")]
            assert [reply.status for reply in sent] == [200, 429, 200]

    play(main())


def test_shadow_mode_counts_and_refuses_nothing() -> None:
    async def main() -> None:
        policy = "rateLimits: [{requests: 1, per: 1m, shadow: true}]"
        async with scene(objects(policy)) as here:
            assert [(await here.send()).status for _ in range(3)] == [200] * 3
            ((_, protection),) = here.protections.active()
            assert protection.gate is not None
            (item,) = protection.gate.limiters.items
            assert (item.limiter.passed, item.limiter.limited) == (1, 2)

    play(main())


def test_buckets_survive_changes_of_other_parts_and_are_divided() -> None:
    async def main() -> None:
        limit = "rateLimits: [{requests: 8, per: 1h}]"
        async with scene(objects(limit), vantage=Vantage(workers=4)) as here:
            assert [(await here.send()).status for _ in range(3)] == [200, 200, 429]
            here.follow(objects(limit + "\nlimits: {maxRequests: 7}", servers=2))
            assert (await here.send()).status == 429
            here.follow(objects("rateLimits: [{requests: 12, per: 1h}]"))
            assert (await here.send()).status == 200

    play(main())


def test_delay_and_abort() -> None:
    async def main() -> None:
        policy = (
            "faults: [{headers: [{name: x-test, value: 'yes'}],"
            " delay: {duration: 3s, percent: 100}, abort: {httpStatus: 418, percent: 100}}]"
        )
        async with scene(objects(policy)) as here:
            reply = await here.send(fields={"x-test": "yes"})
            assert reply.status == 418
            assert reply.took_s == pytest.approx(3, abs=0.1)
            assert marks(here) == (418, "FI", "fault_injected")
            untouched = await here.send()
            assert untouched.status == 200
            assert untouched.took_s < 0.1
            assert len(here.seen) == 1

    play(main())


def test_a_delayed_request_goes_on_whole() -> None:
    async def main() -> None:
        policy = "faults: [{delay: {duration: 3s, percent: 100}}]"
        async with scene(objects(policy)) as here:
            reply = await here.send("POST", body=b"x" * 1000)
            assert reply.status == 200
            assert reply.took_s == pytest.approx(3, abs=0.1)
            assert marks(here) == (200, "DI", "via_upstream")
            assert len(here.seen) == 1

    play(main())


def test_a_grpc_abort() -> None:
    async def main() -> None:
        policy = "faults: [{abort: {grpcStatus: 14, percent: 100}}]"
        async with scene(objects(policy)) as here:
            reply = await here.send("POST", fields=GRPC)
            assert (reply.status, reply.headers["grpc-status"]) == (200, "14")

    play(main())


def test_percentages_are_what_a_coin_would_give() -> None:
    async def main() -> None:
        policy = "faults: [{abort: {httpStatus: 500, percent: 20}}]"
        async with scene(objects(policy)) as here:
            replies = Counter([(await here.send()).status for _ in range(1000)])
            assert 150 < replies[500] < 250  # 4 sigma are 51

    play(main())


def test_a_client_that_leaves_during_a_delay_leaves_nothing_behind() -> None:
    async def main() -> None:
        policy = "faults: [{delay: {duration: 10s, percent: 100}}]\nlimits: {maxRequests: 1}"
        async with scene(objects(policy)) as here:
            async with asyncio.TaskGroup() as tasks:
                sent = tasks.create_task(here.send())
                await asyncio.sleep(1)
                sent.cancel()
            await asyncio.sleep(20)
            assert not leaks(here)

    play(main())


def test_a_response_is_read_no_faster_than_its_limit() -> None:
    async def main() -> None:
        async with scene(objects("bandwidth: {response: 100k}", servers=1)) as here:
            piece = b"x" * 50_000
            here.behave[1] = lambda _: Say(body=piece * 8, pieces=8)
            async with asyncio.TaskGroup() as tasks:
                sent = [tasks.create_task(here.send()) for _ in range(2)]
            assert [len(each.result().body) for each in sent] == [400_000] * 2
            # 16 pieces of half a second; after the last one of each nobody waits.
            assert max(each.result().took_s for each in sent) == pytest.approx(7.5, abs=0.6)
            quick = await here.send()
            assert quick.status == 200
            assert not leaks(here)

    play(main())


def test_a_request_is_read_no_faster_than_its_limit() -> None:
    async def main() -> None:
        policy = "bandwidth: {request: 100k}"
        async with scene(objects(policy, servers=1), vantage=Vantage(workers=2)) as here:
            reply = await here.send("PUT", body=b"x" * 400_000, pieces=8)
            assert reply.status == 200
            # Half of the limit for one of two workers: 8 pieces of a second, but for the last.
            assert reply.took_s == pytest.approx(7, abs=0.2)

    play(main())
