"""Retries and hedging of single requests, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest

from tests.unit.waypoint.answers import always, first_time, leaks, popping
from tests.unit.waypoint.scene import Say, objects, scene
from tests.unit.waypoint.virtual import play

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
