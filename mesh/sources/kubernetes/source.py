"""All objects of a cluster, kept up to date: the same interface as a directory of files."""

from __future__ import annotations

import asyncio
import logging
import random as randomness
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from time import monotonic

from mesh.sources.kubernetes.access import ApiAccess
from mesh.sources.kubernetes.resources import RESOURCES, Resource
from mesh.sources.kubernetes.share import Sharer
from mesh.sources.kubernetes.store import KindStore
from mesh.sources.kubernetes.transport import KubeApi
from mesh.sources.kubernetes.watcher import KindWatcher, WatchSettings
from mesh.sources.objects import ObjectSet

log = logging.getLogger(__name__)

DEBOUNCE_S = 0.02
"""Changes of this long go together: a rollout changes pods and slices in one breath."""
REMIND_S = 10.0


class KubernetesSource:
    """Lists and watches every kind of the mesh. One user at a time; see `open_kubernetes`.

    Args:
        node: the node whose pods' uids are asked for; empty for none.
        random: uniform in [0, 1); spreads retries of many nodes.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        node: str = "",
        resources: Sequence[Resource] = RESOURCES,
        settings: WatchSettings | None = None,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._changed = asyncio.Event()
        self._resources = resources
        self._stores = [KindStore() for _ in resources]
        self._pods = next(
            (s for s, r in zip(self._stores, resources, strict=True) if r.name == "pods"),
            KindStore(),
        )
        sharer = Sharer()
        self._watchers = [
            KindWatcher(
                api,
                resource,
                store,
                settings=settings or WatchSettings(),
                node=node,
                sharer=sharer,
                random=random,
                now=monotonic,
                on_change=self._changed.set,
            )
            for resource, store in zip(resources, self._stores, strict=True)
        ]

    async def run(self) -> None:
        """List and watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watcher in self._watchers:
                group.create_task(watcher.run())

    async def watch(self) -> AsyncGenerator[ObjectSet, None]:
        """Yield everything once every kind is known, then everything again after each change.

        While a kind that exists cannot be read there is no first set: half a mesh is no mesh,
        its policies may be in the other half.
        """
        await self._wait_synced()
        while True:
            self._changed.clear()
            yield self._collect()
            await self._changed.wait()
            await asyncio.sleep(DEBOUNCE_S)

    def pod_uid(self, namespace: str, name: str) -> str:
        """The metadata.uid of a pod of our node; empty if there is none."""
        entry = self._pods.entry(f"{namespace}/{name}")
        return entry.uid if entry is not None else ""

    def silence_s(self) -> float:
        """For how long the API server has said nothing: of the kind of which that is longest. It
        speaks of every kind about once a minute, if only to say that nothing changed."""
        return monotonic() - min(watcher.heard_at for watcher in self._watchers)

    def version(self, resource: str, namespace: str, name: str) -> str:
        """The resource version of an object as it was read; empty if there is none.

        Args:
            resource: `plural.group`.
        """
        for known, store in zip(self._resources, self._stores, strict=True):
            entry = store.entry(f"{namespace}/{name}") if known.name == resource else None
            if entry is not None:
                return entry.version
        return ""

    async def _wait_synced(self) -> None:
        while missing := self._unsynced():
            self._changed.clear()
            try:
                async with asyncio.timeout(REMIND_S):
                    await self._changed.wait()
            except TimeoutError:
                log.warning("still waiting for %s of the API server", ", ".join(missing))

    def _unsynced(self) -> list[str]:
        pairs = zip(self._resources, self._stores, strict=True)
        return [resource.name for resource, store in pairs if not store.is_synced]

    def _collect(self) -> ObjectSet:
        return ObjectSet(
            objects=tuple(chain.from_iterable(store.objects for store in self._stores)),
            problems=tuple(chain.from_iterable(store.problems for store in self._stores)),
        )


@asynccontextmanager
async def open_kubernetes(
    access: ApiAccess,
    *,
    node: str = "",
    resources: Sequence[Resource] = RESOURCES,
    settings: WatchSettings | None = None,
) -> AsyncIterator[KubernetesSource]:
    """Connect and keep watching until the block is left.

    An error that is no failure of the API server cancels the block and is raised out of it.
    """
    failure: Exception | None = None
    async with KubeApi(access) as api, asyncio.TaskGroup() as group:
        source = KubernetesSource(api, node=node, resources=resources, settings=settings)
        running = group.create_task(source.run())
        try:
            yield source
        except Exception as error:
            # The block's own error leaves as it is; the task group would wrap it.
            failure = error
        finally:
            running.cancel()
    if failure is not None:
        raise failure
