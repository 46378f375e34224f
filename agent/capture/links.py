"""Attach the pinned programs: cgroup links for pods and agent, one sk_lookup link per pod.

All links are pinned, because a link that goes away with its process leaves plaintext behind. A
pinned link is updated in place (atomic, no gap) and made anew only if its target is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from agent.capture import pins, syscalls
from agent.paths import NodePaths
from bpf.layout import PROGRAMS, ProgSpec, Target
from mesh.errors import KernelError

LOOKUP_PREFIX = "mn_sk_lookup_"
"""Pin of a pod's link: this and the netns cookie."""
_LOOKUP = next(spec for spec in PROGRAMS if spec.target is Target.POD_NETNS)


def attach_cgroup(paths: NodePaths, target: Target, cgroup: Path) -> None:
    """Attach or update all programs meant for the pods' (or the agent's) cgroup."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for spec in PROGRAMS:
            if spec.target is target:
                _attach(paths, spec, spec.name, fd, os.fstat(fd).st_ino)
    finally:
        os.close(fd)


def attach_lookup(paths: NodePaths, netns_cookie: int, netns_fd: int) -> None:
    """Attach or update the inbound steering of one pod's namespace."""
    name = f"{LOOKUP_PREFIX}{netns_cookie}"
    _attach(paths, _LOOKUP, name, netns_fd, os.fstat(netns_fd).st_ino)


def detach_lookup(paths: NodePaths, netns_cookie: int) -> bool:
    """Remove the inbound steering of a pod; False if there was none."""
    return detach(pins.links_dir(paths) / f"{LOOKUP_PREFIX}{netns_cookie}")


def attached_lookups(paths: NodePaths) -> set[int]:
    """Netns cookies with a pinned link."""
    return {
        int(path.name.removeprefix(LOOKUP_PREFIX))
        for path in _pins(paths)
        if path.name.startswith(LOOKUP_PREFIX)
    }


def update_lookups(paths: NodePaths) -> int:
    """Give all pods' links the pinned program (after a new one was loaded); how many."""
    with _opened(pins.progs_dir(paths) / _LOOKUP.name) as prog_fd:
        count = 0
        for path in _pins(paths):
            if path.name.startswith(LOOKUP_PREFIX):
                with _opened(path) as link_fd:
                    count += _updated(link_fd, prog_fd, path.name)
    return count


def collect_defunct(paths: NodePaths) -> list[str]:
    """Unpin links whose namespace or cgroup is gone; their names."""
    gone: list[str] = []
    for path in list(_pins(paths)):
        with _opened(path) as fd:
            defunct = link_target(fd) == 0
        if defunct:
            path.unlink(missing_ok=True)
            gone.append(path.name)
    return gone


def detach(path: Path) -> bool:
    """Detach a pinned link for good and unpin it; False if there is no such pin."""
    try:
        with _opened(path) as fd:
            syscalls.link_detach(fd, f"link {path.name}")
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return False
        # ENOLINK, EINVAL: its target has gone before it.
        if error.errno not in (errno.ENOLINK, errno.EINVAL):
            raise
    path.unlink(missing_ok=True)
    return True


def link_target(link_fd: int) -> int:
    """Cgroup id or namespace inode that a link is attached to; 0 if that is gone."""
    return target_of(syscalls.link_info(link_fd))


def target_of(info: syscalls.LinkInfo) -> int:
    """Cgroup id or namespace inode that a link was attached to when `info` was read, or 0."""
    # A namespace's inode has 32 bits, and its attach type follows in the upper half.
    is_netns = info.type == syscalls.LINK_TYPE_NETNS
    return int(info.target & 0xFFFFFFFF if is_netns else info.target)


def _attach(paths: NodePaths, spec: ProgSpec, name: str, target_fd: int, target: int) -> None:
    pin = pins.links_dir(paths) / name
    with _opened(pins.progs_dir(paths) / spec.name) as prog_fd:
        if _reused(pin, prog_fd, target):
            return
        link_fd = syscalls.link_create(prog_fd, target_fd, spec.attach, f"attach {name}")
        try:
            syscalls.obj_pin(link_fd, str(pin))
        finally:
            os.close(link_fd)


def _reused(pin: Path, prog_fd: int, target: int) -> bool:
    """Update the pinned link, if there is one and it is attached where it should be."""
    try:
        with _opened(pin) as link_fd:
            if link_target(link_fd) == target and _updated(link_fd, prog_fd, pin.name):
                return True
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    detach(pin)
    return False


def _updated(link_fd: int, prog_fd: int, name: str) -> bool:
    try:
        syscalls.link_update(link_fd, prog_fd, f"update link {name}")
    except KernelError as error:
        if error.errno == errno.ENOLINK:
            return False
        raise
    return True


def _pins(paths: NodePaths) -> Iterator[Path]:
    directory = pins.links_dir(paths)
    return iter(sorted(directory.iterdir())) if directory.is_dir() else iter(())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = syscalls.obj_get(str(path))
    try:
        yield fd
    finally:
        os.close(fd)
