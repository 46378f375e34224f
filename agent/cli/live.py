"""The way to the running agent of a node."""

from __future__ import annotations

from agent.admin.client import AdminClient
from agent.paths import NodePaths


def admin(paths: NodePaths) -> AdminClient:
    """A client of the node's admin socket."""
    return AdminClient(paths.node, paths.admin_socket)
