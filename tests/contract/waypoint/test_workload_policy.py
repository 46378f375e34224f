"""Traffic to a pod's own address: what TrafficPolicies, and what a service says of its port."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from mesh.model.policy import PolicyKey
from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import (
    CircuitLimits,
    Fault,
    PolicyTarget,
    RateLimit,
    RetryOn,
    RetryPolicy,
    TrafficPolicy,
)
from mesh.model.workload import ServiceKey
from tests.contract.http1.stage import CALLER, run, stage
from tests.contract.waypoint.ground import shout
from tests.contract.waypoint.scene import POD, Scene, Script, loopback, scene
from tests.contract.waypoint.test_http2 import curl
from tests.contract.waypoint.test_traffic_policy import BUSY, GET, OK, serving
from waypoint.contract import Origin
from waypoint.resilience.cluster_state import describe
from waypoint.resilience.opaque_way import OpaqueRefusal, OpaqueWay
from waypoint.resilience.protection import MAX_WORKLOAD_WAYS

FEW = RateLimit(requests=2, per_s=3600, burst=2, name="few")
ON_PODS = TrafficPolicy(
    key=PolicyKey("shop/pods"), namespace="shop", name="pods", selector={"app": "web"}
)
ON_GATE = TrafficPolicy(
    key=PolicyKey("shop/gate"),
    namespace="shop",
    name="gate",
    targets=(PolicyTarget(group="gateway.networking.k8s.io", kind="Gateway", name="gate"),),
)


def script(*policies: TrafficPolicy, direct: bool = True) -> Script:
    found = {policy.key: policy for policy in policies}
    return Script(snapshot=MeshSnapshot(revision=1, traffic_policies=found), direct=direct)


async def statuses(here: Scene, count: int) -> Counter[bytes]:
    return Counter([(await here.ask(GET))[9:12] for _ in range(count)])


def test_limits_and_retries_hold_for_a_pod_that_is_dialled() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        answers = [BUSY, OK, OK, OK]
        retry = RetryPolicy(attempts=1, on=frozenset({RetryOn.GATEWAY_ERROR}))
        policy = replace(ON_PODS, rate_limits=(FEW,), retry=retry)
        server = serving(lambda _: answers[min(len(seen), 4) - 1], seen)
        async with scene(server, script=script(policy)) as here:
            assert await statuses(here, 5) == Counter({b"200": 2, b"429": 3})
            assert len(seen) == 3  # one was tried again
            flags = Counter(str(record.flag) for record in here.records)
            assert flags == Counter({"-": 2, "RL": 3})
            (state,) = describe(here.state.protections, 0.0)
            assert (state.service, state.route) == ("pod/shop/web-1", "")
            assert state.policies == {"rate_limits": "shop/pods", "retry": "shop/pods"}

    run(main())


def test_a_policy_of_the_gateway_is_the_widest_and_holds_for_all_that_passes() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        broken = replace(ON_GATE, faults=(Fault(http_status=418, abort_percent=100),))
        mended = replace(ON_PODS, faults=(Fault(http_status=422, abort_percent=100),))
        server = serving(lambda _: OK, seen)
        async with scene(server, script=script(broken, direct=False)) as here:
            assert await statuses(here, 1) == Counter({b"418": 1})
        async with scene(server, script=script(broken)) as here:
            assert await statuses(here, 1) == Counter({b"418": 1})
        async with scene(server, script=script(broken, mended)) as here:
            assert await statuses(here, 1) == Counter({b"422": 1})

    run(main())


def test_pods_of_other_labels_and_namespaces_are_left_alone() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        fault = (Fault(http_status=418, abort_percent=100),)
        others = (
            replace(ON_PODS, faults=fault, selector={"app": "db"}),
            replace(ON_PODS, faults=fault, key=PolicyKey("farm/p"), namespace="farm", selector={}),
            replace(ON_GATE, faults=fault, key=PolicyKey("farm/g"), namespace="farm"),
        )
        async with scene(serving(lambda _: OK, seen), script=script(*others)) as here:
            assert await statuses(here, 3) == Counter({b"200": 3})
            # Labels may change: the policy holds from then on.
            old = here.state.snapshot
            pod = replace(POD, labels={"app": "db"})
            here.state.replace_snapshot(replace(old, revision=2, workloads={POD.uid: pod}))
            assert await statuses(here, 3) == Counter({b"418": 3})

    run(main())


def test_a_pods_port_is_spoken_to_as_its_service_says_or_as_the_client_does() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with stage(serving(lambda _: OK, seen)) as inner:
            address = loopback(inner.port_h2)
            async with scene(script=replace(script(), dialled=address)) as here:
                url = f"http://127.0.0.1:{here.port_h2}/"
                assert (await curl("--http2-prior-knowledge", url)).endswith("ok")
                assert {record.protocol for record in inner.records} == {"HTTP/2"}
                named = replace(here.state.snapshot.services[ServiceKey("shop/web")])
                (port,) = named.ports
                web = replace(
                    named,
                    ports=(replace(port, app_protocol="kubernetes.io/h2c"),),
                    endpoints=Script(app_protocol="x").build([address.port])
                    .services[ServiceKey("shop/web")].endpoints,
                )  # fmt: skip
                old = here.state.snapshot
                here.state.replace_snapshot(replace(old, revision=2, services={web.key: web}))
                assert (await here.ask(GET)).endswith(b"ok")  # HTTP/1.1 of the client
                assert [record.protocol for record in inner.records] == ["HTTP/2", "HTTP/2"]

    run(main())


def test_connections_that_are_no_http_have_the_limits_of_their_pod() -> None:
    async def main() -> None:
        limits = CircuitLimits(max_connections=1)
        policy = replace(ON_PODS, limits=limits, connection_rate_limits=(FEW,))
        async with scene(shout, script=script(policy)) as here:
            state = here.state

            def origin(port: int) -> Origin:
                return Origin(
                    principal=CALLER,
                    client=loopback(1),
                    dialled=loopback(port),
                    service=None,
                    workload=POD,
                )

            first = state.pick_opaque(origin(80), "")
            assert isinstance(first, OpaqueWay)
            full = state.pick_opaque(origin(80), "")
            assert isinstance(full, OpaqueRefusal)
            assert (full.flag, full.detail) == ("UO", "overflow")
            late = state.pick_opaque(origin(81), "")  # the rate is the pod's, whatever the port
            assert isinstance(late, OpaqueRefusal)
            assert (late.flag, late.detail) == ("RL", "rate_limited[shop/pods/few]")
            # Who dials all ports of a pod fills nothing up, and what is open stays counted.
            for port in range(1000, 1000 + 3 * MAX_WORKLOAD_WAYS):
                assert isinstance(state.pick_opaque(origin(port), ""), OpaqueRefusal)
            assert len(state.protections.active()) <= MAX_WORKLOAD_WAYS + 1
            still = state.pick_opaque(origin(80), "")
            assert isinstance(still, OpaqueRefusal)
            first.close(0.0)
            await asyncio.sleep(0)

    run(main())
