"""The stream of the mesh's objects, from the source that the options name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from agent.cni.sandboxes import Sandboxes
from agent.kubernetes.objects import open_node_objects
from agent.options import AgentOptions, KubernetesOption
from mesh.sources.file import FileSource
from mesh.sources.objects import ObjectSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The stream, and for how long its source has been silent (a directory never is)."""

    objects: AsyncIterator[ObjectSet]
    silence_s: Callable[[], float]


async def open_changes(
    options: AgentOptions, stack: AsyncExitStack, sandboxes: Sandboxes
) -> Changes:
    """Open the source; `stack` closes it. The first set is complete.

    Raises `ConfigError` for an API server that cannot be found from here.
    """
    if isinstance(options.source, KubernetesOption):
        source = options.source
        opened = open_node_objects(
            source.kubeconfig, node=options.node, proc=source.proc, sandboxes=sandboxes
        )
        found = await stack.enter_async_context(opened)
        return Changes(objects=found.watch(), silence_s=found.silence_s)
    return Changes(objects=FileSource(options.source.directory).watch(), silence_s=lambda: 0.0)
