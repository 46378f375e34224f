"""What a lab owns, written down before it is made, so that a killed run can be cleared later.

One directory per lab under /run/meshnode-lab: `owner` (process id and start time), `owned` (one
`KIND NAME` per line), and the lab's own files. Processes need no list: all of them live in
cgroups of the lab or of its nodes, and a cgroup is killed as a whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.capture.uninstall import uninstall
from agent.paths import NodePaths
from tests.lab.system import (
    NETNS_ROOT,
    LabError,
    cgroup2_mount,
    command,
    remove_cgroup,
    start_ticks,
)

RECORD_ROOT = Path("/run/meshnode-lab")


class Kind(StrEnum):
    """Kinds of things a lab makes, in the order in which they are cleared."""

    CGROUP = "cgroup"
    NODE = "node"
    NETNS = "netns"


@dataclass(frozen=True, slots=True)
class Record:
    """The record of the lab `name`."""

    name: str

    @property
    def directory(self) -> Path:
        return RECORD_ROOT / self.name

    def create(self) -> None:
        """Claim the name for this process; `LabError` if a living one has it."""
        with _alone():
            if self.directory.exists():
                if self.owner_is_alive():
                    raise LabError(f"lab {self.name} is in use by process {self._owner()[0]}")
                self.clear()
            self.directory.mkdir(mode=0o700)
            pid = os.getpid()
            (self.directory / "owner").write_text(f"{pid} {start_ticks(pid)}\n")

    def own(self, kind: Kind, name: str) -> str:
        """Note something that is about to be made, and return its name."""
        with (self.directory / "owned").open("a") as owned:
            owned.write(f"{kind} {name}\n")
        return name

    def owner_is_alive(self) -> bool:
        """Whether the process that made the lab still runs."""
        pid, ticks = self._owner()
        return ticks != 0 and start_ticks(pid) == ticks

    def clear(self) -> None:
        """Remove everything the lab owns, in order; goes on after a failure, tells all at the end.

        The record stays if something could not be removed, so that the next sweep tries again.
        """
        owned = self._owned()
        failures: list[Exception] = []

        def attempt(step: Callable[[str], None], name: str) -> None:
            try:
                step(name)
            except Exception as error:
                error.add_note(f"while clearing {name} of lab {self.name}")
                failures.append(error)

        steps = {Kind.CGROUP: _clear_cgroup, Kind.NODE: _clear_node, Kind.NETNS: _clear_netns}
        for kind, step in steps.items():
            for found, name in owned:
                if found is kind:
                    attempt(step, name)
        if failures:
            raise ExceptionGroup(f"lab {self.name} left something behind", failures)
        shutil.rmtree(self.directory)

    def _owner(self) -> tuple[int, int]:
        try:
            pid, ticks = (self.directory / "owner").read_text().split()
        except (FileNotFoundError, ValueError):
            return 0, 0  # killed between making the directory and writing the file
        return int(pid), int(ticks)

    def _owned(self) -> list[tuple[Kind, str]]:
        path = self.directory / "owned"
        lines = path.read_text().splitlines() if path.exists() else []
        pairs = (line.split(" ", 1) for line in lines)
        return [(Kind(kind), name) for kind, name in pairs]


def sweep() -> list[str]:
    """Clear the labs whose owner is dead; their names."""
    with _alone():
        records = [Record(entry.name) for entry in sorted(RECORD_ROOT.iterdir()) if entry.is_dir()]
        dead = [record for record in records if not record.owner_is_alive()]
        for record in dead:
            record.clear()
    return [record.name for record in dead]


@contextmanager
def _alone() -> Iterator[None]:
    """Hold off other processes: two must not sweep one lab, nor sweep one that is being claimed."""
    RECORD_ROOT.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(RECORD_ROOT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _clear_cgroup(name: str) -> None:
    remove_cgroup(cgroup2_mount() / name)


def _clear_node(name: str) -> None:
    """End a node's own processes, then detach, unpin and delete what it left."""
    paths = NodePaths(name)
    remove_cgroup(cgroup2_mount() / paths.cgroup_name)
    uninstall(name)
    for directory in (paths.run_dir, paths.pin_root):
        if directory.exists():
            shutil.rmtree(directory)


def _clear_netns(name: str) -> None:
    if (NETNS_ROOT / name).exists():
        command(["ip", "netns", "del", name])
