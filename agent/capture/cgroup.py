"""cgroup v2: where it is mounted, and the cgroup of a node's own processes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from agent.capture.desired import AgentCgroup
from agent.paths import NodePaths
from mesh.errors import KernelError


def cgroup_mount(mounts: str = "/proc/self/mounts") -> Path:
    """Mount point of cgroup v2: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid hosts."""
    for line in Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1].encode().decode("unicode_escape"))
    raise KernelError(
        "cgroup v2", hint="It is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified"
    )


def agent_cgroup_path(paths: NodePaths) -> Path:
    """Directory of the cgroup that holds this node's own processes."""
    return cgroup_mount() / paths.cgroup_name


def make_agent_cgroup(paths: NodePaths) -> AgentCgroup:
    """Make it (again), and describe it for the kernel."""
    path = agent_cgroup_path(paths)
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise KernelError(f"cgroup {path}", error.errno or 0) from error
    return describe_cgroup(path)


def describe_cgroup(path: Path) -> AgentCgroup:
    """Id (the inode, as `bpf_get_current_cgroup_id` reports it) and depth of a cgroup."""
    level = len(path.relative_to(cgroup_mount()).parts)
    return AgentCgroup(id=path.stat().st_ino, level=level)


def join_cgroup(path: Path, pid: int = 0) -> None:
    """Move a process (0 = the caller) in; only sockets it makes from now on belong there."""
    try:
        (path / "cgroup.procs").write_text(str(pid), encoding="ascii")
    except OSError as error:
        raise KernelError(f"cgroup {path}", error.errno or 0) from error


def remove_agent_cgroup(paths: NodePaths) -> bool:
    """Remove it with its children; processes still inside move to the parent. False if there is
    none."""
    path = agent_cgroup_path(paths)
    if not path.is_dir():
        return False
    for directory in _deepest_first(path):
        _empty(directory, path.parent)
        try:
            directory.rmdir()
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise KernelError(f"cgroup {directory}", error.errno or 0) from error
    return True


def remove_canary_cgroups(paths: NodePaths) -> list[Path]:
    """Remove what an agent that was killed, or handed over, left below the pods' cgroup.

    Which one that was is not known any more.
    """
    name = paths.canary_cgroup_name
    found = [path for path in _deepest_first(cgroup_mount()) if path.name == name]
    for path in found:
        _empty(path, path.parent)
        try:
            path.rmdir()
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise KernelError(f"cgroup {path}", error.errno or 0) from error
    return found


def _deepest_first(path: Path) -> Iterator[Path]:
    for directory, _, _ in os.walk(path, topdown=False):
        yield Path(directory)


def _empty(directory: Path, into: Path) -> None:
    for pid in (directory / "cgroup.procs").read_text(encoding="ascii").split():
        with contextlib.suppress(KernelError):  # it has just ended
            join_cgroup(into, int(pid))
