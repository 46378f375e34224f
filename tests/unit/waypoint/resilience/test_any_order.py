"""Whatever servers do, and in whatever order: nothing is lost, leaked or done twice."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.resilience.circuit import Resource
from tests.unit.waypoint.scene import Request, Say, objects, scene
from tests.unit.waypoint.virtual import play

EVERYTHING = """\
loadBalancing: {algorithm: PeakEWMA}
outlierDetection: {consecutiveFailures: 2, baseEjection: 2s}
limits: {maxRequests: 6, maxEndpointConnections: 1, maxPendingRequests: 4, maxRetries: 3}
retry: {attempts: 2, on: [Reset, Timeout, GatewayError], perTryTimeout: 2s}
retryBudget: {percent: 50, interval: 10s, minRetriesPerSecond: 1}
hedging: {after: 500ms, attempts: 2}
rateLimits: [{requests: 20, per: 1s}]
bandwidth: {request: 1M, response: 1M}
sessionPersistence: {sessionName: sid}
"""
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE"])
SAYS = st.builds(
    Say,
    status=st.sampled_from([200, 200, 200, 404, 429, 500, 503, 0]),
    after_s=st.sampled_from([0.0, 0.0, 0.3, 0.7, 3.0]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sent=st.lists(
        st.tuples(METHODS, st.sampled_from([0.0, 0.1, 1.0]), st.booleans()), min_size=1, max_size=14
    ),
    says=st.lists(SAYS, min_size=1, max_size=8),
    gone=st.sets(st.integers(1, 3), max_size=2),
)
def test_nothing_is_lost_leaked_or_done_twice(
    sent: list[tuple[str, float, bool]], says: list[Say], gone: set[int]
) -> None:
    async def main() -> None:
        async with scene(objects(EVERYTHING)) as here:
            for number in gone:
                del here.connector.servers[sorted(here.connector.servers, key=str)[number - 1]]
            turn = 0

            def behave(_: Request) -> Say:
                nonlocal turn
                turn += 1
                return says[turn % len(says)]

            here.behave = dict.fromkeys((1, 2, 3), behave)
            async with asyncio.TaskGroup() as tasks:
                asked = []
                for number, (method, gap, has_body) in enumerate(sent):
                    await asyncio.sleep(gap)
                    body = b"x" * 2000 if has_body and method != "GET" else b""
                    work = here.send(method, f"/{number}", body=body)
                    asked.append((method, number, tasks.create_task(work)))
            times = Counter(request.head.split()[1].decode() for request in here.seen)
            for method, number, task in asked:
                assert task.result().status in (200, 404, 429, 500, 503, 504)
                if method == "POST":
                    assert times[f"/{number}"] <= 1
                assert times[f"/{number}"] <= 9  # three tries of three runners
            assert len(here.records) == len(sent)
            assert here.proxy.active == 0
            await asyncio.sleep(0.1)
            for _, protection in here.protections.active():
                cluster = protection.cluster
                kinds = (Resource.REQUESTS, Resource.PENDING, Resource.RETRIES)
                assert [cluster.breaker.active(kind) for kind in kinds] == [0, 0, 0]
                assert sum(target.active for target in cluster.endpoints) == 0
                idle = sum(len(target.idle) for target in cluster.endpoints)
                assert cluster.breaker.active(Resource.CONNECTIONS) == idle
                assert sum(target.connections for target in cluster.endpoints) == idle

    play(main())
