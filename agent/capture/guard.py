"""Keep a node's pins: hold what they name, so that a removed pin detaches nothing, and re-pin it.

A link without a pin and without a holder goes away, and its pods' traffic goes on in plaintext.
While the node process holds the link, removing the pin (by hand, by a clean-up script, by
unmounting bpffs) changes nothing, and the next check puts the pin back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from agent.capture import pins, syscalls
from agent.capture.links import link_target, target_of
from agent.paths import NodePaths
from mesh.errors import KernelError


class PinGuard:
    """Holds every pinned map, program and link of one node. Call `close()` at the end."""

    def __init__(self, paths: NodePaths) -> None:
        self._paths = paths
        self._reader = syscalls.LinkReader()
        self._links = str(pins.links_dir(paths))
        self._directories = (str(pins.maps_dir(paths)), str(pins.progs_dir(paths)), self._links)
        # Descriptors by directory and name: no paths are built for hundreds of pins a second.
        self._held: dict[str, dict[str, int]] = {where: {} for where in self._directories}

    def hold(self) -> None:
        """Take hold of pins that are new, and let go of links that were detached."""
        self._drop_detached()
        for where, held in self._held.items():
            for name in _names(where):
                if name not in held:
                    held[name] = syscalls.obj_get(f"{where}/{name}")

    def restore(self) -> list[str]:
        """Put back pins that are gone; their names. Raises `KernelError` if that cannot be."""
        self._drop_detached()
        # Three listings instead of a look at each of hundreds of pins, once a second.
        gone = []
        for where, held in self._held.items():
            present = _names(where)
            gone += [(where, name) for name in held if name not in present]
        if gone:
            pins.make_directories(self._paths)
        for where, name in gone:
            syscalls.obj_pin(self._held[where][name], f"{where}/{name}")
        return [name for _, name in gone]

    def has_attached(self, name: str) -> bool:
        """Whether the link `name` was attached to something at the last `hold()` or `restore()`."""
        return name in self._held[self._links]

    def has_lost(self, names: Iterable[str]) -> bool:
        """Whether one of these links is held and attached to nothing any more. Cheap."""
        held = self._held[self._links]
        return any(not self._target(held[name]) for name in names if name in held)

    def close(self) -> None:
        """Let go of everything; the pins stay. Idempotent."""
        for held in self._held.values():
            while held:
                os.close(held.popitem()[1])

    def _drop_detached(self) -> None:
        held = self._held[self._links]
        for name in [name for name, fd in held.items() if not self._target(fd)]:
            os.close(held.pop(name))

    def _target(self, fd: int) -> int:
        return target_of(self._reader.read(fd))


def _names(directory: str) -> set[str]:
    try:
        return set(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return set()


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
