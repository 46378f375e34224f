"""The CNI plugin's place in the node: its socket, its configuration, and where a pod stands."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil

from agent.admin.view import PodState
from agent.cni.admission import Admission, Finding, Standing
from agent.cni.build import built_plugin
from agent.cni.config import PluginEntry, install_binary, keep_chained
from agent.cni.request import Sandbox
from agent.cni.sandboxes import Sandboxes
from agent.cni.server import serve_cni
from agent.node.node import Node
from agent.options import CniOptions
from agent.paths import NodePaths
from mesh.errors import ConfigError
from mesh.model.workload import WorkloadUid

_SPARE_S = 2.0
"""The agent gives up this much before the plugin does, so that its reason arrives."""


@asynccontextmanager
async def serve_plugin(
    node: Node, options: CniOptions, paths: NodePaths, sandboxes: Sandboxes
) -> AsyncIterator[None]:
    """Answer the plugin while the block runs. Raises `ConfigError`."""
    admission = Admission(
        sandboxes,
        lambda sandbox: standing_of(node, sandbox),
        deadline_s=max(1.0, options.timeout_s - _SPARE_S),
    )
    async with serve_cni(paths.cni_socket, admission.decide):
        yield


async def keep_plugin(options: CniOptions, paths: NodePaths) -> None:
    """Install the plugin and keep it in the node's configuration until cancelled."""
    plugin = options.plugin or built_plugin()
    if plugin is None:
        raise ConfigError("the CNI plugin is not built: run `make setup`, or give --cni=false")
    install_binary(plugin, options.bin_dir)
    entry = PluginEntry(
        socket=paths.cni_socket, timeout_s=ceil(options.timeout_s), excluded=options.excluded
    )
    await keep_chained(options.conf_dir, entry)


def standing_of(node: Node, sandbox: Sandbox) -> Finding:
    """Where the pod of a sandbox stands with this node now."""
    uid = WorkloadUid(f"pod/{sandbox.namespace}/{sandbox.name}")
    workload = node.snapshot.workloads.get(uid)
    # A pod of the same name that has just gone had other addresses.
    if workload is None or not set(sandbox.addresses) <= set(workload.addresses):
        return Finding(Standing.UNKNOWN)
    if not workload.enrolled:
        return Finding(Standing.OUTSIDE)
    state, reason = node.pods.progress(uid, _netns_id(sandbox.netns))
    if state is PodState.ACTIVE:
        return Finding(Standing.ACTIVE)
    return Finding(Standing.PENDING, reason)


def _netns_id(path: str) -> tuple[int, int] | None:
    """Device and inode of the sandbox's namespace; None for one that is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
