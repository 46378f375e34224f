"""What the lab asks of the machine: iproute2, cgroup v2, bpffs, processes, waiting."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from agent.netns import call_in_netns, open_netns

T = TypeVar("T")

NETNS_ROOT = Path("/run/netns")
BPFFS = Path("/sys/fs/bpf")
POLL_S = 0.01


class LabError(Exception):
    """The machine refused a step of building or clearing a lab."""


def eventually(check: Callable[[], T], deadline_s: float = 30.0, what: str = "") -> T:
    """Call `check` until its result is true, and return that result.

    For the edges only where nothing can be awaited (kernel, other processes). An AssertionError
    inside `check` counts as "not yet". Raises AssertionError after `deadline_s` seconds.
    """
    end = time.monotonic() + deadline_s
    while True:
        complaint: AssertionError | None = None
        try:
            result = check()
            if result:
                return result
            last = repr(result)
        except AssertionError as error:
            complaint, last = error, str(error)
        if time.monotonic() >= end:
            text = f"not within {deadline_s} s: {what or check}; last: {last}"
            raise AssertionError(text) from complaint
        time.sleep(POLL_S)


def command(argv: Sequence[str], stdin: str | None = None) -> str:
    """Run a short command of the system and return its output; `LabError` if it fails."""
    done = subprocess.run(
        list(argv), input=stdin, capture_output=True, text=True, check=False, timeout=30
    )
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}\n{stdin or ''}")
    return done.stdout


def ip_batch(netns: str, lines: Sequence[str]) -> None:
    """Run `ip` commands, one per line, inside the namespace `netns`."""
    command(["ip", "-n", netns, "-batch", "-"], stdin="\n".join(lines) + "\n")


def in_netns(netns: str, function: Callable[[], T]) -> T:
    """Run `function` inside the namespace, on a thread of its own."""
    fd = open_netns(str(NETNS_ROOT / netns))
    try:
        return call_in_netns(fd, function)
    finally:
        os.close(fd)


def write_sysctls(netns: str, values: dict[str, str]) -> None:
    """Set sysctls (`net/ipv4/ip_forward`: slashes, as interface names may hold dots)."""

    def write() -> None:
        for name, value in values.items():
            Path("/proc/sys", name).write_text(value)

    in_netns(netns, write)


def listening_ports(netns: str) -> frozenset[int]:
    """TCP ports with a listener in the namespace, read without connecting to any."""

    def read() -> frozenset[int]:
        ports = set()
        for name in ("tcp", "tcp6"):
            for line in Path("/proc/thread-self/net", name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":  # TCP_LISTEN
                    ports.add(int(fields[1].rsplit(":", 1)[1], 16))
        return frozenset(ports)

    return in_netns(netns, read)


def cgroup2_mount() -> Path:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or elsewhere on hybrid machines."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(mount_point)
    raise LabError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")


def mount_bpffs() -> None:
    """Mount the BPF file system where every tool expects it, unless it is there."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    if not any(fields[1] == str(BPFFS) and fields[2] == "bpf" for fields in mounts):
        command(["mount", "-t", "bpf", "bpf", str(BPFFS)])


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot, 0 if there is none.

    With the pid it names a process for good: a number alone is used again.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def remove_cgroup(path: Path) -> None:
    """Kill what is in a cgroup and below, and remove all of it; nothing to do if it is gone."""
    if not path.is_dir():
        return
    kill_file = path / "cgroup.kill"
    if not kill_file.exists():
        raise LabError(f"{path} is not a cgroup v2 that can be killed (Linux 5.14)")
    kill_file.write_text("1")

    def is_empty() -> bool:
        return "populated 0" in (path / "cgroup.events").read_text()

    eventually(is_empty, 30.0, f"processes of {path} are gone")
    for child in sorted(path.rglob("*"), key=lambda entry: len(entry.parts), reverse=True):
        if child.is_dir():
            child.rmdir()
    path.rmdir()
