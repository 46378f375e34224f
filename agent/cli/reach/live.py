"""The way to the running agent of a node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from agent.admin.client import AdminClient
from agent.paths import NodePaths


@dataclass(frozen=True, slots=True)
class SocketAt:
    """Click's `obj` where the admin socket is somewhere else than the node's paths say."""

    path: Path


def admin(paths: NodePaths) -> AdminClient:
    """A client of the node's admin socket."""
    elsewhere = click.get_current_context().find_object(SocketAt)
    return AdminClient(paths.node, elsewhere.path if elsewhere else paths.admin_socket)
