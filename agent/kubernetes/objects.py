"""The objects of a cluster as a node needs them: with the namespaces of its own pods.

Kubernetes does not say where a pod's network namespace is. It is found here and written where a
standalone source says it: into the annotation `meshnode.io/netns`, which the source itself never
takes from a pod.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec

from agent.cni.sandboxes import Sandboxes
from agent.kubernetes.netns import NetnsFinder
from mesh.model.address import IPAddress
from mesh.sources.kubernetes.config import load_configuration
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.objects import ObjectSet, PodIP, PodObject, SourceObject
from mesh.state.labels import NETNS_ANNOTATION

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often it is checked that namespaces are still those of their pods. A sandbox may be made
anew without a word from the API server."""


class PodSource(Protocol):
    """What is needed of `KubernetesSource`."""

    def watch(self) -> AsyncGenerator[ObjectSet, None]: ...
    def pod_uid(self, namespace: str, name: str) -> str: ...
    def silence_s(self) -> float: ...


class Finder(Protocol):
    """What is needed of `NetnsFinder`."""

    def find(self, uids: Collection[str]) -> Mapping[str, str]: ...


class NodeObjects:
    """A source with namespaces filled in. Put `run()` into a task group."""

    def __init__(
        self,
        source: PodSource,
        finder: Finder,
        sandboxes: Sandboxes,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._source = source
        self._sandboxes = sandboxes
        self._finder = finder
        self._look_s = look_s
        self._newest: ObjectSet | None = None
        self._wake = asyncio.Event()
        sandboxes.listen(self._wake.set)

    def silence_s(self) -> float:
        """See `KubernetesSource.silence_s`."""
        return self._source.silence_s()

    async def run(self) -> None:
        """Follow the source until cancelled."""
        async for objects in self._source.watch():
            self._newest = objects
            self._wake.set()

    async def watch(self) -> AsyncGenerator[ObjectSet, None]:
        """Yield everything, then everything again after each change of objects or namespaces."""
        while self._newest is None:
            self._wake.clear()
            await self._wake.wait()
        seen: ObjectSet | None = None
        pods: Mapping[str, _Local] = {}
        located: Mapping[str, _Place] = {}
        while True:
            self._wake.clear()
            objects = self._newest or ObjectSet()
            if objects is not seen:
                pods = {pod.where: _Local(pod, uid) for pod, uid in self._local_pods(objects)}
            uids = frozenset(local.uid for local in pods.values())
            paths = await asyncio.to_thread(self._finder.find, uids)
            found = dict(self._places(pods.values(), paths))
            if objects is not seen or found != located:
                seen, located = objects, found
                yield _with_netns(objects, found)
            await self._sleep()

    def _places(
        self, pods: Iterable[_Local], paths: Mapping[str, str]
    ) -> Iterator[tuple[str, _Place]]:
        """Where each pod's namespace is; of a starting pod the CNI plugin alone knows."""
        for pod, uid in ((local.pod, local.uid) for local in pods):
            sandbox = self._sandboxes.of_pod(pod.namespace, pod.name, uid)
            path = paths.get(uid, sandbox.netns if sandbox is not None else "")
            if path:
                yield pod.where, _Place(path, sandbox.addresses if sandbox is not None else ())

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(self._look_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _local_pods(self, objects: ObjectSet) -> Iterator[tuple[SourceObject, str]]:
        for item in objects.objects:
            if isinstance(item.body, PodObject) and not item.body.spec.host_network:
                uid = self._source.pod_uid(item.namespace, item.name)
                if uid:
                    yield item, uid


@dataclass(frozen=True, slots=True)
class _Local:
    """A pod of this node, and its uid."""

    pod: SourceObject
    uid: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A namespace, and the addresses that the CNI plugins gave it (where they told us)."""

    netns: str
    addresses: tuple[IPAddress, ...]


def _with_netns(objects: ObjectSet, places: Mapping[str, _Place]) -> ObjectSet:
    """The same objects with the annotation on the pods that were found."""
    return replace(
        objects,
        objects=tuple(
            _annotate(item, item.body, places[item.where])
            if item.where in places and isinstance(item.body, PodObject)
            else item
            for item in objects.objects
        ),
    )


def _annotate(item: SourceObject, pod: PodObject, place: _Place) -> SourceObject:
    annotations = {**pod.metadata.annotations, NETNS_ANNOTATION: place.netns}
    metadata = msgspec.structs.replace(pod.metadata, annotations=annotations)
    status = pod.status
    if not status.pod_ip and not status.pod_ips:
        # The kubelet tells the API server once the plugin has ended, which waits for us.
        ips = tuple(PodIP(ip=str(address)) for address in place.addresses)
        status = msgspec.structs.replace(status, pod_ips=ips)
    return replace(item, body=msgspec.structs.replace(pod, metadata=metadata, status=status))


@asynccontextmanager
async def open_node_objects(
    kubeconfig: Path | None,
    *,
    node: str,
    sandboxes: Sandboxes,
    proc: Path = Path("/proc"),
) -> AsyncIterator[NodeObjects]:
    """Connect to the API server and keep watching until the block is left.

    Raises `ConfigError` if the API server cannot be found from here.
    """
    configuration = await load_configuration(kubeconfig)
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        finder = NetnsFinder(proc)
        stack.callback(finder.close)
        source = await stack.enter_async_context(open_kubernetes(configuration, node=node))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        made = NodeObjects(source, finder, sandboxes)
        running = group.create_task(made.run())
        try:
            yield made
        except Exception as error:
            # The block's own error leaves as it is; the task group would wrap it.
            failure = error
        finally:
            running.cancel()
    if failure is not None:
        raise failure
