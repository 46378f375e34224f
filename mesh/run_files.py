"""Where processes that are not node agents leave their sockets, and how they are found again."""

from __future__ import annotations

import os
from pathlib import Path

WAYPOINTS = Path("/run/meshnode-waypoints")
"""Mode 0700; one socket per running waypoint of this machine."""


def waypoint_socket(name: str, pid: int, directory: Path = WAYPOINTS) -> Path:
    """The socket of waypoint `<namespace>/<name>`; no object's name has an underscore."""
    namespace, _, own = name.partition("/")
    return directory / f"{namespace}_{own}_{pid}.sock"


def waypoint_sockets(directory: Path = WAYPOINTS) -> list[tuple[str, Path]]:
    """Name and socket of every waypoint whose process lives."""
    try:
        entries = sorted(directory.iterdir())
    except (FileNotFoundError, PermissionError):
        return []
    found = []
    for path in entries:
        parts = path.name.removesuffix(".sock").split("_")
        if len(parts) == 3 and parts[2].isdecimal() and _lives(int(parts[2])):
            found.append((f"{parts[0]}/{parts[1]}", path))
    return found


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
