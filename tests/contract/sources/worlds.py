"""The two places that objects come from, behind one interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from mesh.sources.file import FileSource
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.objects import ObjectSet
from tests.lab.objects import KubeObject, ObjectDirectory
from tests.support.kube_api import KubeApiServer

TIMEOUT_S = 60.0


class World(Protocol):
    """Where a test puts objects, and the source that reads them."""

    async def apply(self, *manifests: KubeObject) -> None: ...
    async def delete(self, manifest: KubeObject) -> None: ...
    def watch(self) -> AbstractAsyncContextManager[Watching]: ...


class Watching:
    """A source under way."""

    def __init__(self, changes: AsyncGenerator[ObjectSet, None]) -> None:
        self._changes = changes

    async def next(self) -> ObjectSet:
        """The next set, whatever it is."""
        async with asyncio.timeout(TIMEOUT_S):
            return await anext(self._changes)

    async def until(self, condition: Callable[[ObjectSet], bool]) -> ObjectSet:
        """The first set that is as wanted."""
        async with asyncio.timeout(TIMEOUT_S):
            async for found in self._changes:
                if condition(found):
                    return found
        raise AssertionError("the source ended")


class FileWorld:
    """A directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._objects = ObjectDirectory(directory)

    async def apply(self, *manifests: KubeObject) -> None:
        for manifest in manifests:
            self._objects.apply(_file_of(manifest), manifest)

    async def delete(self, manifest: KubeObject) -> None:
        self._objects.delete(_file_of(manifest))

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watching]:
        async with aclosing(FileSource(self._directory).watch()) as changes:
            yield Watching(changes)


class KubeWorld:
    """An API server with the Gateway API installed."""

    def __init__(self, server: KubeApiServer) -> None:
        self._server = server

    async def apply(self, *manifests: KubeObject) -> None:
        await self._server.apply(*manifests)

    async def delete(self, manifest: KubeObject) -> None:
        await self._server.delete(manifest)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watching]:
        async with (
            open_kubernetes(self._server.access) as source,
            aclosing(source.watch()) as changes,
        ):
            yield Watching(changes)


Opener: TypeAlias = Callable[[Path], AbstractAsyncContextManager[World]]


@asynccontextmanager
async def file_world(path: Path) -> AsyncIterator[World]:
    """An empty directory."""
    yield FileWorld(path)


@asynccontextmanager
async def kube_world(_: Path) -> AsyncIterator[World]:
    """An empty cluster."""
    server = KubeApiServer(has_gateway_api=True)
    async with server.running():
        yield KubeWorld(server)


def _file_of(manifest: KubeObject) -> str:
    metadata = manifest["metadata"]
    if not isinstance(metadata, Mapping):
        raise TypeError("metadata is a mapping")
    return f"{manifest['kind']}-{metadata.get('namespace', '')}-{metadata['name']}"
