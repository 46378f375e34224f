"""Remove everything a node left in the kernel: links, pins of all schemas, routes, cgroup."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.capture import links
from agent.capture.cgroup import agent_cgroup_path, remove_agent_cgroup, remove_canary_cgroups
from agent.capture.transparent import undo_transparent
from agent.netns import open_netns
from agent.paths import NodePaths
from mesh.errors import KernelError


def uninstall(node: str, netns_paths: Iterable[str] = ()) -> list[str]:
    """Detach and unlink everything of a node; returns what was removed, in words.

    `netns_paths` are the pods' namespaces where they are known: their routing is put back.
    Repeating it removes nothing and returns an empty list. Raises `KernelError` if something
    cannot be removed, after removing the rest.
    """
    paths = NodePaths(node)
    removed: list[str] = []
    failures: list[KernelError] = []
    # Capture first: without it nothing is sent to listeners that are about to go.
    for pin in _link_pins(paths.pin_root):
        with _collecting(failures):
            if links.detach(pin):
                removed.append(f"link {pin.name}")
    removed += _remove_pins(paths, failures)
    for path in netns_paths:
        with _collecting(failures):
            removed += _restore_routing(path)
    with _collecting(failures):
        if remove_agent_cgroup(paths):
            removed.append(f"cgroup {agent_cgroup_path(paths)}")
    with _collecting(failures):
        removed += [f"cgroup {path}" for path in remove_canary_cgroups(paths)]
    if failures:
        raise failures[0]
    return removed


def _link_pins(root: Path) -> list[Path]:
    """Links of every schema; outbound capture (`mn_connect4`) sorts before inbound steering."""
    return sorted(root.glob("*/links/*"), key=lambda pin: pin.name)


def _remove_pins(paths: NodePaths, failures: list[KernelError]) -> list[str]:
    root = paths.pin_root
    if not root.is_dir():
        return []
    removed = [f"pin {pin}" for pin in sorted(root.rglob("*")) if not pin.is_dir()]
    try:
        shutil.rmtree(root)
        with contextlib.suppress(OSError):  # other nodes have pins beside it
            root.parent.rmdir()
    except OSError as error:
        failures.append(KernelError(f"pins at {root}", error.errno or 0))
    return removed


def _restore_routing(path: str) -> list[str]:
    if not Path(path).exists():
        return []
    fd = open_netns(path)
    try:
        return [f"routing of {path}"] if undo_transparent(fd) else []
    finally:
        os.close(fd)


@contextlib.contextmanager
def _collecting(failures: list[KernelError]) -> Iterator[None]:
    try:
        yield
    except KernelError as error:
        failures.append(error)
