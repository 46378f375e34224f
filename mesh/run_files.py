"""Where processes that are not node agents leave their sockets, and how they are found again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

WAYPOINTS = Path("/run/meshnode-waypoints")
"""Mode 0700; one socket per running waypoint of this machine."""


VIEW_PORT = 15019
"""On Kubernetes, the loopback port of agents and waypoints that answers questions and changes
nothing; people reach it through the API server."""
OPERATOR = "meshnode-operator"
"""The service account whose tokens let somebody change an agent's log level from afar; also the
name of the Role that lets a person make one."""


def operator_audience(node: str) -> str:
    """Whom such a token is for: one agent, so that no other can use it."""
    return f"meshnode.io/agent/{node}"


def waypoint_socket(name: str, pid: int, directory: Path = WAYPOINTS) -> Path:
    """The socket of waypoint `<namespace>/<name>`; no object's name has an underscore."""
    namespace, _, own = name.partition("/")
    return directory / f"{namespace}_{own}_{pid}.sock"


def waypoint_sockets(directory: Path = WAYPOINTS) -> list[tuple[str, Path]]:
    """Name and socket of every waypoint whose process lives."""
    return [(name, path) for name, path, pid in _sockets(directory) if _lives(pid)]


def drop_dead_sockets(directory: Path = WAYPOINTS) -> None:
    """Remove the sockets of waypoints that were killed."""
    for _, path, pid in _sockets(directory):
        if not _lives(pid):
            path.unlink(missing_ok=True)


def _sockets(directory: Path) -> Iterator[tuple[str, Path, int]]:
    try:
        entries = sorted(directory.iterdir())
    except (FileNotFoundError, PermissionError):
        return
    for path in entries:
        parts = path.name.removesuffix(".sock").split("_")
        if len(parts) == 3 and parts[2].isdecimal():
            yield f"{parts[0]}/{parts[1]}", path, int(parts[2])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
