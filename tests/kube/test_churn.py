"""Pods that come and go all the time: nothing is left over, nobody gets what is not his."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Mapping
from contextlib import aclosing

import pytest

from mesh.identity.directory import SnapshotDirectory
from mesh.model.identity import SpiffeId
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.kubernetes.watcher import WatchSettings
from mesh.state.reducer import Reducer, reduce
from tests.kube.soak import DENY, Churn, footprint
from tests.kube.test_enrolment import PORT, STAY, cluster, namespace
from tests.support.kube_api import KubeApiServer

PODS = 200
ROUNDS = 12
CHURN_S = 20.0
TIMEOUT_S = 120.0


def pod(number: int, node: int, generation: int) -> Mapping[str, object]:
    address = f"10.{node}.{generation % 250}.{number + 1}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"p{number}", "namespace": "shop"},
        "spec": {"nodeName": f"n{node}", "serviceAccountName": f"a{number}"},
        "status": {"phase": "Running", "podIP": address},
    }


def test_after_two_hundred_pods_moved_about_the_mesh_is_what_the_cluster_is() -> None:
    """Watches break and lag meanwhile; certificates follow the pods."""
    dice = random.Random(7)

    async def run() -> None:
        server = KubeApiServer()
        await server.apply(namespace("shop", dataplane="enabled"))
        nodes = {number: number % 2 for number in range(PODS)}
        await server.apply(*(pod(number, node, 0) for number, node in nodes.items()))
        settings = WatchSettings(first_backoff_s=0.01, missing_s=0.05, page=50)
        async with (
            asyncio.timeout(TIMEOUT_S),
            server.running(),
            open_kubernetes(server.access, node="n0", settings=settings) as source,
            aclosing(source.watch()) as changes,
        ):
            reducer = Reducer()
            snapshot = reducer.reduce(await anext(changes))
            directory = SnapshotDirectory(lambda: snapshot)
            for generation in range(1, ROUNDS):
                for number in dice.sample(range(PODS), 40):
                    await server.delete(pod(number, nodes[number], 0))
                    nodes[number] = dice.randrange(2)
                    await server.apply(pod(number, nodes[number], generation))
                if generation % 3 == 0:
                    server.store.forget_history()
                    await server.drop_watches()
                await server.apply(pod(0, nodes[0], 200 + generation))
                expected = {f"p{number}": f"n{node}" for number, node in nodes.items()}
                while {w.name: w.node for w in snapshot.workloads.values()} != expected:
                    objects = await anext(changes)
                    snapshot = reducer.reduce(objects)
                for number, node in nodes.items():
                    identity = SpiffeId(
                        trust_domain="cluster.local",
                        namespace="shop",
                        service_account=f"a{number}",
                    )
                    assert directory.runs_on(identity, f"n{node}")
                    assert not directory.runs_on(identity, f"n{1 - node}")
            anew = reduce(objects, None)
            assert dict(snapshot.workloads) == dict(anew.workloads)
            assert len(snapshot.by_address) == PODS

    asyncio.run(run())


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pods_that_come_and_go_are_in_the_mesh_when_they_say_so() -> None:
    with cluster() as on:
        on.plane.apply(namespace("shop", dataplane="enabled"), DENY)
        on.wait_states("active")
        staying = on.client.start([sys.executable, "-c", STAY, on.server.address, str(PORT)])
        churn = Churn(on, living_at_most=4)
        for _ in range(2):
            churn.step()
        churn.clear()
        before = [footprint(node) for node in (on.a, on.b)]
        churn.run(CHURN_S)
        churn.clear()
        assert staying.running
        for node, was in zip((on.a, on.b), before, strict=True):
            now = footprint(node)
            assert now.entries["mn_enrolled"] == now.entries["mn_listener"] // 2 == 1
            assert now.entries["mn_workload"] == was.entries["mn_workload"]
            # A tunnel stays open for five idle minutes, at both ends; `make soak` outlasts them.
            assert now.descriptors < was.descriptors + 2 * churn.made + 20, (was, now)
