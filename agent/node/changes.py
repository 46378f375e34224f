"""The stream of the mesh's objects, from the source that the options name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from agent.cni.sandboxes import Sandboxes
from agent.options import AgentOptions, KubernetesOption
from mesh.errors import MeshnodeError
from mesh.sources.file import FileSource
from mesh.sources.objects import ObjectSet


async def open_changes(
    options: AgentOptions, stack: AsyncExitStack, sandboxes: Sandboxes
) -> AsyncIterator[ObjectSet]:
    """Open the source; `stack` closes it. The first set is complete.

    Raises `ConfigError` for an API server that cannot be found from here.
    """
    if isinstance(options.source, KubernetesOption):
        # A standalone agent has no use for the client library, which takes 40 MB.
        from agent.kubernetes.objects import open_node_objects

        source = options.source
        opened = open_node_objects(
            source.kubeconfig, node=options.node, proc=source.proc, sandboxes=sandboxes
        )
        return (await stack.enter_async_context(opened)).watch()
    return FileSource(options.source.directory).watch()


async def first_set(changes: AsyncIterator[ObjectSet], stop: asyncio.Event) -> ObjectSet | None:
    """Wait for the first set, which an API server may keep from us for long; None after a stop.

    Raises what the source raises.
    """

    async def read() -> ObjectSet | MeshnodeError:
        try:
            return await anext(changes)
        except MeshnodeError as error:
            # Raised below: the task group would wrap it.
            return error

    async with asyncio.TaskGroup() as group:
        reading, stopping = group.create_task(read()), group.create_task(stop.wait())
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        stopping.cancel()
    found = None if reading.cancelled() else reading.result()
    if isinstance(found, MeshnodeError):
        raise found
    return found
