"""What this machine holds that a test could leave behind, before and after a session."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from agent.paths import BPF_ROOT, RUN_ROOT
from tests.lab.record import RECORD_ROOT
from tests.lab.system import (
    NETNS_ROOT,
    LabError,
    cgroup2_mount,
    command,
    eventually,
    start_ticks,
)

SETTLE_S = 30.0
"""The kernel frees programs and links some time after the last reference is gone."""

OUR_PROGRAMS = "mn_"


@dataclass(frozen=True, slots=True)
class Inventory:
    """Names of everything of ours that exists; `bpf` cannot be told apart by owner."""

    named: frozenset[str]
    bpf: frozenset[str]


def take_inventory() -> Inventory:
    """Look at the machine. Needs root."""
    named = {f"namespace {name}" for name in _entries(NETNS_ROOT)}
    for root in (RUN_ROOT, BPF_ROOT, RECORD_ROOT):
        named |= {str(root / name) for name in _entries(root)}
    named |= {f"cgroup {path}" for path in _cgroups()}
    named |= {f"process {text}" for text in _children()}
    return Inventory(named=frozenset(named), bpf=frozenset(_bpf_objects()))


@dataclass(frozen=True, slots=True)
class Session:
    """A test session, noted on disk, so that sessions can tell whose leftovers they see."""

    record: Path

    @staticmethod
    def begin() -> Session:
        RECORD_ROOT.mkdir(mode=0o700, exist_ok=True)
        for killed in RECORD_ROOT.glob("session-*"):
            if not _is_alive(killed):
                killed.unlink(missing_ok=True)
        record = RECORD_ROOT / f"session-{os.getpid()}"
        record.write_text(str(start_ticks(os.getpid())))
        return Session(record)

    def is_alone(self) -> bool:
        """Whether no other living session or lab is on this machine."""
        return not any(path != self.record and _is_alive(path) for path in RECORD_ROOT.iterdir())

    def end(self) -> None:
        self.record.unlink(missing_ok=True)


def find_leaks(before: Inventory, session: Session, was_alone: bool) -> list[str]:
    """What is there now and was not before; empty is what a session must leave.

    Things of other sessions are told apart by their names. BPF objects have no owner: they count
    only when no other session was seen.
    """
    if not was_alone or not session.is_alone():
        return sorted(_ours(before))
    leaks: list[str] = []

    def settled() -> bool:
        now = take_inventory()
        leaks[:] = sorted((now.named - before.named) | (now.bpf - before.bpf))
        leaks[:] = [leak for leak in leaks if leak != str(session.record)]
        return not leaks

    try:
        eventually(settled, SETTLE_S, "nothing is left behind")
    except AssertionError:
        return leaks
    return []


def _ours(before: Inventory) -> set[str]:
    """Leftovers that are surely of this process: its child processes and its labs."""
    new = take_inventory().named - before.named
    mine = {f"process {text}" for text in _children()}
    labs = {str(path) for path in _lab_records() if _owner(path)[0] == os.getpid()}
    return set(new & (mine | labs))


def _lab_records() -> list[Path]:
    return [path for path in RECORD_ROOT.iterdir() if path.is_dir()]


def _owner(path: Path) -> tuple[int, int]:
    try:
        if path.is_dir():
            pid, ticks = (path / "owner").read_text().split()
        else:
            pid, ticks = path.name.removeprefix("session-"), path.read_text()
        return int(pid), int(ticks)
    except (FileNotFoundError, ValueError):
        return 0, 0


def _is_alive(path: Path) -> bool:
    pid, ticks = _owner(path)
    return pid not in (0, os.getpid()) and ticks != 0 and start_ticks(pid) == ticks


def _entries(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _cgroups() -> list[str]:
    """First-level cgroups: those of labs (`mnt-…`), of nodes and of the demo are all there."""
    mount = cgroup2_mount()
    return [entry.name for entry in mount.iterdir() if entry.is_dir()]


def _children() -> list[str]:
    """Living descendants of this process, apart from those that are still being reaped."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and start_ticks(int(entry.name)):
            parents[int(entry.name)] = _parent(int(entry.name))
    return [
        f"{pid} {_command_line(pid)}" for pid, parent in parents.items() if parent == os.getpid()
    ]


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return "(ended)"


def _bpf_objects() -> set[str]:
    """Programs of ours that are loaded, and links to them."""
    try:
        programs = json.loads(command(["bpftool", "-j", "prog", "show"]) or "[]")
        links = json.loads(command(["bpftool", "-j", "link", "show"]) or "[]")
    except (LabError, FileNotFoundError):
        return set()  # no bpftool for this kernel: pins and names are still compared
    ours = {item["id"] for item in programs if str(item.get("name", "")).startswith(OUR_PROGRAMS)}
    found = {f"BPF program {number}" for number in ours}
    found |= {f"BPF link {item['id']}" for item in links if item.get("prog_id") in ours}
    return found
