"""Keep a node's pins: hold what they name, so that a removed pin detaches nothing, and re-pin it.

A link without a pin and without a holder goes away, and its pods' traffic goes on in plaintext.
While the node process holds the link, removing the pin (by hand, by a clean-up script, by
unmounting bpffs) changes nothing, and the next check puts the pin back.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.capture import pins, syscalls
from agent.capture.links import link_target
from agent.paths import NodePaths
from mesh.errors import KernelError


class PinGuard:
    """Holds every pinned map, program and link of one node. Call `close()` at the end."""

    def __init__(self, paths: NodePaths) -> None:
        self._paths = paths
        self._held: dict[Path, int] = {}

    def hold(self) -> None:
        """Take hold of pins that are new, and let go of links that were detached."""
        self._drop_detached()
        for directory in self._directories():
            for path in directory.iterdir() if directory.is_dir() else ():
                if path not in self._held:
                    self._held[path] = syscalls.obj_get(str(path))

    def restore(self) -> list[str]:
        """Put back pins that are gone; their names. Raises `KernelError` if that cannot be."""
        self._drop_detached()
        # Three listings instead of a look at each of hundreds of pins, once a second.
        present = {
            path
            for directory in self._directories()
            if directory.is_dir()
            for path in directory.iterdir()
        }
        gone = [path for path in self._held if path not in present]
        if gone:
            pins.make_directories(self._paths)
        for path in gone:
            syscalls.obj_pin(self._held[path], str(path))
        return [path.name for path in gone]

    def has_attached(self, name: str) -> bool:
        """Whether the link `name` was attached to something at the last `hold()` or `restore()`."""
        return pins.links_dir(self._paths) / name in self._held

    def close(self) -> None:
        """Let go of everything; the pins stay. Idempotent."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _drop_detached(self) -> None:
        links = pins.links_dir(self._paths)
        for path in [path for path in self._held if path.parent == links]:
            if link_target(self._held[path]) == 0:
                os.close(self._held.pop(path))

    def _directories(self) -> tuple[Path, ...]:
        paths = self._paths
        return pins.maps_dir(paths), pins.progs_dir(paths), pins.links_dir(paths)


def is_attached(paths: NodePaths, name: str) -> bool:
    """Whether the link pinned as `name` is there and attached to something."""
    try:
        fd = syscalls.obj_get(str(pins.links_dir(paths) / name))
    except KernelError:
        return False
    try:
        return link_target(fd) != 0
    finally:
        os.close(fd)
