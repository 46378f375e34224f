"""What a policy does to single requests: limits, faults, retries, hedging, pace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from mesh.resilience.circuit import Resource
from tests.unit.waypoint.scene import CALLER, Request, Say, Scene, objects, scene
from tests.unit.waypoint.virtual import play
from waypoint.protection import Vantage

GRPC = {"content-type": "application/grpc", "te": "trailers"}


def first_time(bad: Say) -> Callable[[Request], Say]:
    """Fail once, then serve."""
    said: list[Say] = [bad]
    return lambda _: said.pop() if said else Say()


def always(said: Say) -> Callable[[Request], Say]:
    """Do the same every time."""
    return lambda _: said


def popping(says: list[Say]) -> Callable[[Request], Say]:
    """Do one after the other, the last first."""
    return lambda _: says.pop()


def marks(here: Scene) -> tuple[int, str, str]:
    """Status, flag and details of the newest record."""
    record = here.records[-1]
    return record.status, str(record.flag), record.details


def leaks(here: Scene) -> bool:
    """Whether anything is still counted."""
    for _, protection in here.protections.active():
        breaker = protection.cluster.breaker
        if any(breaker.active(kind) for kind in Resource if kind is not Resource.CONNECTIONS):
            return True
        if any(target.active for target in protection.cluster.endpoints):
            return True
    return False


# --- rate limits --------------------------------------------------------------------------------


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


# --- faults -------------------------------------------------------------------------------------


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


# --- retries ------------------------------------------------------------------------------------

RETRY = "retry: {attempts: 2, on: [Reset, Timeout, GatewayError], perTryTimeout: 2s}"


@pytest.mark.parametrize(
    ("bad", "method", "status", "tries"),
    [
        (Say(status=503), "GET", 200, 2),
        (Say(status=503), "POST", 503, 1),
        (Say(status=500), "GET", 500, 1),
        (Say(status=0), "GET", 200, 2),
        (Say(status=0), "POST", 503, 1),
        (Say(after_s=5), "GET", 200, 2),
        (Say(after_s=5), "PUT", 200, 2),
        (Say(after_s=5), "POST", 504, 1),
        (Say(after_s=5), "PATCH", 504, 1),
    ],
)
def test_what_is_tried_again(bad: Say, method: str, status: int, tries: int) -> None:
    async def main() -> None:
        async with scene(objects(RETRY)) as here:
            behave = first_time(bad)
            here.behave = dict.fromkeys((1, 2, 3), behave)
            reply = await here.send(method, body=b"hello" if method != "GET" else b"")
            assert (reply.status, here.records[-1].tries) == (status, tries)
            if tries == 2:
                assert here.seen[0].server != here.seen[1].server
            assert sum(request.method == method for request in here.seen) == tries
            assert not leaks(here)

    play(main())


def test_a_post_that_may_have_been_delivered_is_never_repeated() -> None:
    """Whatever the policy says, and however the server ends."""

    async def main() -> None:
        policy = (
            "retry: {attempts: 9, on: [Reset, Timeout, GatewayError, ServerError],"
            " codes: [429, 409], perTryTimeout: 1s}\nhedging: {after: 100ms, attempts: 3}"
        )
        async with scene(objects(policy)) as here:
            ways = [Say(status=status) for status in (0, 503, 429, 500)]
            for way in (*ways, Say(after_s=9)):
                here.behave = dict.fromkeys((1, 2, 3), always(way))
                before = len(here.seen)
                await here.send("POST", body=b"pay")
                assert len(here.seen) == before + 1
            here.connector.servers.clear()  # never delivered: tried as often as allowed
            dialled = here.connector.dialled
            for target in here.endpoints.targets():
                for client in target.idle:
                    client.close()
            await asyncio.sleep(0.1)
            await here.send("POST", body=b"pay")
            assert here.connector.dialled == dialled + 10

    play(main())


def test_retries_end_with_the_attempts_and_wait_longer_each_time() -> None:
    async def main() -> None:
        policy = (
            "retry: {attempts: 3, codes: [503], backoff: {base: 1s, maximum: 4s}}\n"
            "limits: {maxRetries: 1}"
        )
        async with scene(objects(policy)) as here:
            here.behave = dict.fromkeys((1, 2, 3), lambda _: Say(status=503))
            assert (await here.send()).status == 503
            times = [request.at for request in here.seen]
            waits = [after - before for before, after in pairwise(times)]
            assert len(waits) == 3
            assert all(0.99 <= wait <= 4.01 for wait in waits)
            assert not leaks(here)

    play(main())


def test_a_spent_budget_answers_503() -> None:
    async def main() -> None:
        policy = (
            "retry: {attempts: 1, codes: [500]}\n"
            "retryBudget: {percent: 10, interval: 10s, minRetriesPerSecond: 0.1}"
        )
        async with scene(objects(policy)) as here:
            here.behave = dict.fromkeys((1, 2, 3), lambda _: Say(status=500))
            statuses = Counter([(await here.send()).status for _ in range(40)])
            retries = len(here.seen) - 40
            assert 3 <= retries <= 5  # a tenth of the requests
            assert statuses == Counter({503: 40 - retries, 500: retries})
            spent = {(str(r.flag), r.details) for r in here.records if r.status == 503}
            assert spent == {("URX", "retry_budget_spent")}
            assert not leaks(here)

    play(main())


def test_only_so_many_retries_at_once() -> None:
    async def main() -> None:
        policy = "retry: {attempts: 1, codes: [503]}\nlimits: {maxRetries: 2}"
        async with scene(objects(policy)) as here:
            here.behave = dict.fromkeys((1, 2, 3), lambda _: Say(status=503, after_s=1))
            async with asyncio.TaskGroup() as tasks:
                for _ in range(10):
                    tasks.create_task(here.send())
            assert len(here.seen) == 12
            kept = [record for record in here.records if record.details == "retry_overflow"]
            assert len(kept) == 8
            assert {(record.status, str(record.flag)) for record in kept} == {(503, "UO")}
            assert not leaks(here)

    play(main())


def test_a_routes_own_retry_comes_before_the_policys() -> None:
    route = """\
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - matches: [{path: {value: /own}}]
    backendRefs: [{name: api, port: 80}]
    retry: {attempts: 3, codes: [500], backoff: 10ms}
  - backendRefs: [{name: api, port: 80}]
"""

    async def main() -> None:
        policy = "retry: {attempts: 1, codes: [500]}"
        async with scene(objects(policy, more=route)) as here:
            here.behave = dict.fromkeys((1, 2, 3), lambda _: Say(status=500))
            await here.send(path="/own")
            await here.send(path="/other")
            assert [record.tries for record in here.records] == [4, 2]

    play(main())


# --- hedging ------------------------------------------------------------------------------------

HEDGE = "hedging: {after: 1s}\nloadBalancing: {algorithm: RoundRobin}\nlimits: {maxRetries: 5}"


def test_a_slow_answer_is_overtaken() -> None:
    async def main() -> None:
        async with scene(objects(HEDGE)) as here:
            slow = first_time(Say(after_s=30, body=b"slow"))
            here.behave = dict.fromkeys((1, 2, 3), slow)
            reply = await here.send()
            assert reply.body == b"ok"
            assert reply.took_s == pytest.approx(1, abs=0.1)
            assert here.records[-1].tries == 2
            first, second = here.seen
            assert first.server != second.server
            (loser,) = here.servers[first.server]
            assert loser.closed
            assert not leaks(here)

    play(main())


def test_the_first_try_may_still_win() -> None:
    async def main() -> None:
        async with scene(objects(HEDGE)) as here:
            says = [Say(after_s=30), Say(after_s=1.5, body=b"first")]
            here.behave = dict.fromkeys((1, 2, 3), popping(says))
            reply = await here.send()
            assert reply.body == b"first"
            assert reply.took_s == pytest.approx(1.5, abs=0.1)
            assert not leaks(here)

    play(main())


def test_a_bad_answer_does_not_win_while_another_runs() -> None:
    async def main() -> None:
        async with scene(objects(HEDGE)) as here:
            says = [Say(status=503, after_s=0.5), Say(after_s=3, body=b"first")]
            here.behave = dict.fromkeys((1, 2, 3), popping(says))
            reply = await here.send()
            assert (reply.status, reply.body) == (200, b"first")
            says[:] = [Say(status=0, after_s=0.5), Say(after_s=3, body=b"first")]
            assert (await here.send()).body == b"first"
            says[:] = [Say(status=503, after_s=3), Say(status=503, after_s=3)]
            assert (await here.send()).status == 503
            assert not leaks(here)

    play(main())


def test_a_put_whose_body_is_here_is_hedged_with_its_body() -> None:
    async def main() -> None:
        async with scene(objects(HEDGE)) as here:
            here.behave = dict.fromkeys((1, 2, 3), first_time(Say(after_s=30)))
            reply = await here.send("PUT", body=b"x" * 5000)
            assert reply.status == 200
            assert len(here.seen) == 2  # a server speaks only of whole requests

    play(main())


def test_a_post_is_not_hedged_and_nobody_beyond_the_limit() -> None:
    async def main() -> None:
        async with scene(objects(HEDGE)) as here:
            here.behave = dict.fromkeys((1, 2, 3), lambda _: Say(after_s=3))
            await here.send("POST", body=b"x")
            assert len(here.seen) == 1
        async with scene(objects("hedging: {after: 1s}\nlimits: {maxRetries: 0}")) as here:
            here.behave = dict.fromkeys((1, 2, 3), lambda _: Say(after_s=3))
            await here.send()
            assert len(here.seen) == 1

    play(main())


def test_a_client_that_leaves_ends_every_runner() -> None:
    async def main() -> None:
        async with scene(objects(HEDGE + "\nretry: {perTryTimeout: 4s, attempts: 0}")) as here:
            here.behave = dict.fromkeys((1, 2, 3), lambda _: Say(after_s=60))
            reply = await here.send()
            assert reply.status == 504
            assert len(here.seen) == 2
            await asyncio.sleep(0.1)
            assert all(server.closed for list_ in here.servers.values() for server in list_)
            assert not leaks(here)

    play(main())


# --- pace ---------------------------------------------------------------------------------------


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
