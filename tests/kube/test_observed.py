"""The state of a pod's enrolment, as the pod shows it."""

from __future__ import annotations

import asyncio

from agent.admin.view import PodState, PodStatus
from agent.kubernetes.observed import ObservedState
from mesh.model.workload import WorkloadUid
from mesh.sources.kubernetes.transport import KubeApi
from tests.kube.test_rbac import permissions_of
from tests.kube.test_token_review import workload
from tests.support.kube_api import KubeApiServer

TIMEOUT_S = 60.0


def status(state: PodState, reason: str = "", cookie: str = "") -> PodStatus:
    return PodStatus(
        uid=WorkloadUid("pod/shop/web"),
        namespace="shop",
        name="web",
        state=state,
        reason=reason,
        identity="",
        cookie=cookie,
        since=0.0,
        addresses=(),
    )


def shown(server: KubeApiServer) -> object:
    meta = server.store.get("pods", ("shop", "web"))["metadata"]
    assert isinstance(meta, dict)
    return meta.get("annotations", {})


def test_a_pod_shows_what_became_of_it_and_nothing_once_it_left() -> None:
    states: list[PodStatus] = []

    async def run() -> None:
        server = KubeApiServer()
        async with (
            asyncio.timeout(TIMEOUT_S),
            server.running(),
            KubeApi(server.access) as api,
            asyncio.TaskGroup() as group,
        ):
            await server.apply(workload("web", "one", "10.0.0.1"))
            task = group.create_task(ObservedState(api, lambda: states).run())
            for state, reason, expected in (
                (PodState.PENDING, "not yet", {"meshnode.io/enrolment-reason": "not yet"}),
                (PodState.FAILED, "no netns", {"meshnode.io/enrolment-reason": "no netns"}),
                (PodState.ACTIVE, "", {}),
            ):
                states[:] = [status(state, reason)]
                while shown(server) != {"meshnode.io/enrolment": str(state), **expected}:  # noqa: ASYNC110  (the server's)
                    await asyncio.sleep(0.02)
            # The same again is not written again, and the pod's own status stays as it was.
            written = server.asked("PATCH")
            await asyncio.sleep(1.2)
            assert server.asked("PATCH") == written == 3
            kept = server.store.get("pods", ("shop", "web"))["status"]
            assert kept == {"phase": "Running", "podIP": "10.0.0.1"}
            states.clear()
            while shown(server) != {}:  # noqa: ASYNC110  (the server's)
                await asyncio.sleep(0.02)
            assert permissions_of(server.requests) == {("", "pods/status", "patch")}
            task.cancel()

    asyncio.run(run())


def test_an_api_server_that_is_away_is_asked_again_and_a_pod_that_is_gone_is_not_missed() -> None:
    async def run() -> None:
        server = KubeApiServer()
        async with (
            asyncio.timeout(TIMEOUT_S),
            server.running(),
            KubeApi(server.access) as api,
            asyncio.TaskGroup() as group,
        ):
            server.faults.failures.append((503, 0.0))
            task = group.create_task(
                ObservedState(api, lambda: [status(PodState.ACTIVE)], retry_s=0.1).run()
            )
            await server.wait_asked("PATCH", 2)
            await asyncio.sleep(0.7)
            assert server.asked("PATCH") == 2
            task.cancel()

    asyncio.run(run())


def test_a_pod_that_takes_the_name_of_another_shows_its_own_state() -> None:
    """As those of a StatefulSet do, perhaps between two looks."""
    states = [status(PodState.ACTIVE, cookie="1")]

    async def run() -> None:
        server = KubeApiServer()
        async with (
            asyncio.timeout(TIMEOUT_S),
            server.running(),
            KubeApi(server.access) as api,
            asyncio.TaskGroup() as group,
        ):
            for cookie in ("1", "2"):
                await server.apply(workload("web", "one", "10.0.0.1"))
                states[:] = [status(PodState.ACTIVE, cookie=cookie)]
                if cookie == "1":
                    task = group.create_task(ObservedState(api, lambda: states).run())
                while shown(server) != {"meshnode.io/enrolment": "active"}:  # noqa: ASYNC110  (the server's)
                    await asyncio.sleep(0.02)
                await server.delete(workload("web", "one", "10.0.0.1"))
            task.cancel()

    asyncio.run(run())
