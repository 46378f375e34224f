"""A source on an API server whose watches go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from mesh.sources.kubernetes.resources import Resource
from mesh.sources.kubernetes.source import KubernetesSource, open_kubernetes
from mesh.sources.kubernetes.watcher import WatchSettings
from mesh.sources.objects import ObjectSet
from tests.support.kube_api import KubeApiServer

PODS = (Resource(kind="Pod", plural="pods"),)
QUICK = WatchSettings(first_backoff_s=0.01, missing_s=0.01, page=2)
TIMEOUT_S = 10.0


def pod(name: str, address: str = "10.0.0.1", node: str = "one") -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIP": address},
    }


@dataclass
class Stage:
    """A server, a source that watches it, and what the source said last."""

    server: KubeApiServer
    source: KubernetesSource

    def __post_init__(self) -> None:
        self.changes = self.source.watch()

    async def until(self, condition: Callable[[ObjectSet], bool]) -> ObjectSet:
        """Follow the source up to a set that is as wanted."""
        async with asyncio.timeout(TIMEOUT_S):
            async for found in self.changes:
                if condition(found):
                    return found
        raise AssertionError("the source ended")

    async def names(self, *expected: str) -> ObjectSet:
        """Follow the source up to exactly these objects."""
        return await self.until(
            lambda found: sorted(item.name for item in found.objects) == sorted(expected)
        )


@asynccontextmanager
async def stage(
    server: KubeApiServer,
    resources: tuple[Resource, ...] = PODS,
    settings: WatchSettings = QUICK,
) -> AsyncIterator[Stage]:
    """A running server with a source on it."""
    async with (
        server.running(),
        open_kubernetes(
            server.access, node="one", resources=resources, settings=settings
        ) as source,
    ):
        made = Stage(server, source)
        async with aclosing(made.changes):
            yield made


def play(
    script: Callable[[Stage], Awaitable[None]],
    *pods: Mapping[str, object],
    resources: tuple[Resource, ...] = PODS,
    settings: WatchSettings = QUICK,
    server: KubeApiServer | None = None,
) -> None:
    async def run() -> None:
        made = server or KubeApiServer()
        for manifest in pods:
            made.store.create("pods", manifest)
        async with stage(made, resources, settings) as on:
            await script(on)

    asyncio.run(run())
