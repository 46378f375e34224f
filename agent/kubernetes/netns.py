"""Network namespaces of pods, found through the cgroups of their processes.

The kubelet gives every pod a cgroup named after its uid; whatever the container runtime, the
processes of the pod are below it. The namespace of the oldest of them (the sandbox) is the pod's.

A namespace that was found is held open and named by our own descriptor, never by the process it
was found through: that process may end, and its number may come to mean another pod's. While it
lives it is asked again: one that was only on its way into the pod was elsewhere before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import KernelError

# systemd driver: kubepods-burstable-pod<uid, dashes as underscores>.slice; cgroupfs driver:
# kubepods/burstable/pod<uid>. Both may be nested (kind) or relative (own cgroup namespace).
_POD = re.compile(
    r"[/-]pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})"
    r"(?:\.slice)?(?:/|$)"
)
_START_FIELD = 22 - 3  # proc(5): `starttime` is field 22; counted behind the command's bracket.


def pod_uid_of(cgroups: str) -> str:
    """Read the pod's uid from the text of /proc/PID/cgroup; empty for a process of no pod.

    The outermost pod of a path counts: what is below it, the pod itself may have named. Where the
    hierarchies of cgroup v1 disagree, nobody can tell, and the process is of no pod.
    """
    found: set[str] = set()
    for line in cgroups.splitlines():
        path = line.split(":", 2)[-1]
        match = _POD.search(path)
        if match:
            found.add(match[1].replace("_", "-"))
    return found.pop() if len(found) == 1 else ""


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    started: int


@dataclass(slots=True)
class _Held:
    """A namespace that is held open, and the process that proves that it is the pod's."""

    process: _Process
    fd: int


class NetnsFinder:
    """Finds namespaces and keeps them open until nobody asks for them any more.

    Args:
        proc: the process file system of the host's pid namespace.
        host_netns: a file of the host's network namespace; None = that of its process 1.

    Raises `KernelError` where the host's processes cannot be looked at.
    """

    def __init__(self, proc: Path = Path("/proc"), host_netns: Path | None = None) -> None:
        self._proc = proc
        self._held: dict[str, _Held] = {}
        # In the pid namespace of `proc`; everybody who opens our paths shares it.
        self._self = os.readlink(proc / "self")
        self._host = _netns_id(host_netns or proc / "1" / "ns" / "net")

    def find(self, uids: Collection[str]) -> Mapping[str, str]:
        """Path of each pod's namespace, where it has one; forgets other pods. Blocks briefly."""
        for uid in [uid for uid in self._held if uid not in uids]:
            self._release(uid)
        for uid, held in list(self._held.items()):
            if self._uid_of(held.process) != uid or self._has_moved(held):
                self._release(uid)
        missing = set(uids) - set(self._held)
        if missing:
            self._search(missing)
        root = self._proc / self._self / "fd"
        return {uid: str(root / str(held.fd)) for uid, held in self._held.items()}

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        for uid in list(self._held):
            self._release(uid)

    def _release(self, uid: str) -> None:
        os.close(self._held.pop(uid).fd)

    def _has_moved(self, held: _Held) -> bool:
        """Whether the process is in another namespace by now; one that cannot tell is not."""
        try:
            status = (self._proc / str(held.process.pid) / "ns" / "net").stat()
        except OSError:
            return False
        known = os.fstat(held.fd)
        return (status.st_dev, status.st_ino) != (known.st_dev, known.st_ino)

    def _search(self, uids: Collection[str]) -> None:
        found: dict[str, list[_Process]] = {}
        for process in self._processes():
            uid = self._uid_of(process)
            if uid in uids:
                found.setdefault(uid, []).append(process)
        for uid, processes in found.items():
            for process in sorted(processes, key=lambda p: (p.started, p.pid)):
                fd = self._open(process, uid)
                if fd is not None:
                    self._held[uid] = _Held(process, fd)
                    break

    def _open(self, process: _Process, uid: str) -> int | None:
        """Open the namespace of a process of a pod; None if it has none of its own."""
        try:
            path = self._proc / str(process.pid) / "ns" / "net"
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None  # It ended, or may not be looked at; the pod has others.
        status = os.fstat(fd)
        # Monitors of the runtime are in the pod's cgroup and in the host's namespace. And only
        # a process that is still the same one now was the same one when it was opened.
        if (status.st_dev, status.st_ino) == self._host or self._uid_of(process) != uid:
            os.close(fd)
            return None
        return fd

    def _processes(self) -> Iterator[_Process]:
        for name in os.listdir(self._proc):
            if name.isdecimal():
                started = self._started(int(name))
                if started is not None:
                    yield _Process(int(name), started)

    def _uid_of(self, process: _Process) -> str:
        """The pod that a process is in; empty if it is in none, or is not there any more."""
        try:
            cgroups = (self._proc / str(process.pid) / "cgroup").read_text(errors="replace")
        except OSError:
            return ""
        return pod_uid_of(cgroups) if self._started(process.pid) == process.started else ""

    def _started(self, pid: int) -> int | None:
        """When a process began, in clock ticks since boot: with its number, its identity."""
        try:
            text = (self._proc / str(pid) / "stat").read_text(errors="replace")
        except OSError:
            return None
        # The command may hold spaces and brackets; the last bracket ends it.
        fields = text.rpartition(")")[2].split()
        return int(fields[_START_FIELD]) if len(fields) > _START_FIELD else None


def _netns_id(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        hint = "The agent needs the host's pid namespace (hostPID) and CAP_SYS_PTRACE."
        raise KernelError(f"the host's network namespace {path}", error.errno or 0, hint) from error
    return status.st_dev, status.st_ino
