"""Namespaces of local pods in the objects that the node reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing

from agent.cni.request import Sandbox
from agent.cni.sandboxes import Sandboxes
from agent.kubernetes.objects import NodeObjects
from mesh.model.address import parse_ip
from mesh.sources.objects import Metadata, ObjectSet, PodObject, PodSpec, PodStatus, SourceObject
from mesh.state.reducer import reduce

TIMEOUT_S = 60.0


def pod(name: str, *, host_network: bool = False) -> SourceObject:
    body = PodObject(
        metadata=Metadata(name=name, namespace="shop"),
        spec=PodSpec(node_name="one", host_network=host_network),
        status=PodStatus(phase="Running", pod_ip=f"10.0.0.{len(name)}"),
    )
    where = f"Pod shop/{name}"
    return SourceObject(kind="Pod", namespace="shop", name=name, where=where, body=body)


class ScriptedSource:
    """Yields what it is given; knows which pods are local."""

    def __init__(self, uids: Mapping[str, str]) -> None:
        self.sets: asyncio.Queue[ObjectSet] = asyncio.Queue()
        self._uids = uids

    async def watch(self) -> AsyncGenerator[ObjectSet, None]:
        while True:
            yield await self.sets.get()

    def pod_uid(self, namespace: str, name: str) -> str:
        return self._uids.get(f"{namespace}/{name}", "")

    def silence_s(self) -> float:
        return 0.0


class ScriptedFinder:
    """Knows the paths it is told."""

    def __init__(self) -> None:
        self.paths: dict[str, str] = {}
        self.asked: list[Collection[str]] = []

    def find(self, uids: Collection[str]) -> Mapping[str, str]:
        self.asked.append(uids)
        return {uid: self.paths[uid] for uid in uids if uid in self.paths}


def netns_of(objects: ObjectSet) -> dict[str, str | None]:
    return {w.name: w.netns for w in reduce(objects, None).workloads.values()}


def test_namespaces_are_filled_in_and_followed() -> None:
    async def run() -> None:
        source, finder = ScriptedSource({"shop/a": "u-a", "shop/host": "u-h"}), ScriptedFinder()
        objects = NodeObjects(source, finder, Sandboxes(), look_s=0.01)
        finder.paths = {"u-a": "/proc/9/fd/1", "u-h": "/proc/9/fd/2"}
        source.sets.put_nowait(
            ObjectSet(objects=(pod("a"), pod("far"), pod("host", host_network=True)))
        )
        async with asyncio.TaskGroup() as group, asyncio.timeout(TIMEOUT_S):
            following = group.create_task(objects.run())
            async with aclosing(objects.watch()) as changes:
                found = await anext(changes)
                assert netns_of(found) == {"a": "/proc/9/fd/1", "far": None, "host": None}
                assert finder.asked[0] == {"u-a"}
                finder.paths = {"u-a": "/proc/9/fd/3"}
                assert netns_of(await anext(changes))["a"] == "/proc/9/fd/3"
                finder.paths = {}
                assert netns_of(await anext(changes))["a"] is None
                source.sets.put_nowait(ObjectSet(objects=(pod("far"),)))
                assert netns_of(await anext(changes)) == {"far": None}
            following.cancel()

    asyncio.run(run())


def starting(name: str) -> SourceObject:
    """A pod whose sandbox is being made: the API server knows no address of it."""
    body = PodObject(
        metadata=Metadata(name=name, namespace="shop"),
        spec=PodSpec(node_name="one"),
        status=PodStatus(phase="Pending"),
    )
    where = f"Pod shop/{name}"
    return SourceObject(kind="Pod", namespace="shop", name=name, where=where, body=body)


def sandbox(name: str, uid: str) -> Sandbox:
    return Sandbox(
        namespace="shop",
        name=name,
        uid=uid,
        container=f"c-{uid}",
        netns=f"/var/run/netns/{uid}",
        addresses=(parse_ip("10.0.0.7"),),
    )


def test_a_starting_pod_is_what_the_cni_plugin_says() -> None:
    async def run() -> None:
        source, finder, sandboxes = ScriptedSource({"shop/a": "u-2"}), ScriptedFinder(), Sandboxes()
        objects = NodeObjects(source, finder, sandboxes, look_s=0.01)
        # Told before anything was read, and of a pod of that name that is gone.
        sandboxes.announce(sandbox("a", "u-1"))
        source.sets.put_nowait(ObjectSet(objects=(starting("a"),)))
        async with asyncio.TaskGroup() as group, asyncio.timeout(TIMEOUT_S):
            following = group.create_task(objects.run())
            async with aclosing(objects.watch()) as changes:
                assert netns_of(await anext(changes)) == {}
                sandboxes.announce(sandbox("a", "u-2"))
                found = reduce(await anext(changes), None).workloads
                [workload] = found.values()
                assert workload.netns == "/var/run/netns/u-2"
                assert workload.addresses == (parse_ip("10.0.0.7"),)
                # A process of the pod is the better proof; what the plugin said of addresses stays.
                finder.paths = {"u-2": "/proc/9/fd/1"}
                [workload] = reduce(await anext(changes), None).workloads.values()
                assert workload.netns == "/proc/9/fd/1"
                assert workload.addresses == (parse_ip("10.0.0.7"),)
                # What the API server says counts once it says something.
                source.sets.put_nowait(ObjectSet(objects=(pod("a"),)))
                [workload] = reduce(await anext(changes), None).workloads.values()
                assert workload.addresses == (parse_ip("10.0.0.1"),)
                sandboxes.forget(sandbox("a", "u-1"))
                assert sandboxes.of_pod("shop", "a", "u-2") is not None
                sandboxes.forget(sandbox("a", "u-2"))
                assert sandboxes.of_pod("shop", "a", "u-2") is None
            following.cancel()

    asyncio.run(run())
