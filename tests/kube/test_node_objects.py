"""From a Pod at the API server to its network namespace: real watch, real process."""

from __future__ import annotations

import asyncio
import os
import uuid
from contextlib import aclosing, closing

import pytest

from agent.cni.sandboxes import Sandboxes
from agent.kubernetes.netns import NetnsFinder
from agent.kubernetes.objects import NodeObjects
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.objects import ObjectSet
from mesh.state.reducer import reduce
from tests.kube.test_netns import HOST_NETNS, pod_process
from tests.support.kube_api import KubeApiServer


def netns_of(objects: ObjectSet) -> dict[str, str | None]:
    return {w.name: w.netns for w in reduce(objects, None).workloads.values()}


@pytest.mark.root
def test_a_pod_has_its_namespace_as_long_as_its_sandbox_lives() -> None:
    uid = str(uuid.uuid4())
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "uid": uid},
        "spec": {"nodeName": "one"},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }

    async def run() -> None:
        server = KubeApiServer()
        with closing(NetnsFinder(host_netns=HOST_NETNS)) as finder:
            async with (
                asyncio.timeout(20),
                server.running(),
                open_kubernetes(server.access, node="one") as source,
                asyncio.TaskGroup() as group,
            ):
                objects = NodeObjects(source, finder, Sandboxes(), look_s=0.05)
                following = group.create_task(objects.run())
                async with aclosing(objects.watch()) as changes:
                    await anext(changes)
                    with pod_process(uid) as pid:
                        await server.apply(pod)
                        path = netns_of(await anext(changes))["web"]
                        assert path is not None
                        inode = os.stat(f"/proc/{pid}/ns/net").st_ino
                        assert os.stat(path).st_ino == inode
                    # The sandbox is gone; the pod is still there, and may get another one.
                    assert netns_of(await anext(changes)) == {"web": None}
                    with pod_process(uid) as pid:
                        path = netns_of(await anext(changes))["web"]
                        assert path is not None
                        assert os.stat(path).st_ino == os.stat(f"/proc/{pid}/ns/net").st_ino
                following.cancel()

    asyncio.run(run())
