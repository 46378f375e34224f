"""What processes cost: CPU time and memory, as the kernel accounts for them.

All processes of one side live in a cgroup of their own, so the cgroup's account is the sum of the
processes' accounts; it is exact to a microsecond and keeps those that have ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

QUIET_SHARE = 0.1
"""Of a core: below that, processes count as done with what was asked of them."""
_QUIET_STEP_S = 0.03


def cpu_seconds(cgroups: Iterable[Path]) -> float:
    """User and system time of all that ever ran in these cgroups and below."""
    return sum(_usage_usec(cgroup) for cgroup in cgroups) / 1e6


def _usage_usec(cgroup: Path) -> int:
    for line in (cgroup / "cpu.stat").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == "usage_usec":
            return int(value)
    raise ValueError(f"{cgroup}/cpu.stat has no usage_usec")


def wait_quiet(cgroups: Sequence[Path], for_s: float = 0.0, deadline_s: float = 5.0) -> None:
    """Wait until these processes have nothing left to do: what they put off is part of the cost.

    They must be quiet `for_s` seconds long; after `deadline_s` seconds it goes on as it is.
    """
    end = time.monotonic() + deadline_s
    before, since = cpu_seconds(cgroups), time.monotonic()
    quiet_since = since
    while time.monotonic() < end:
        time.sleep(_QUIET_STEP_S)
        after, now = cpu_seconds(cgroups), time.monotonic()
        if after - before > QUIET_SHARE * (now - since):
            quiet_since = now
        elif now - quiet_since >= for_s:
            return
        before, since = after, now


def processes(cgroups: Iterable[Path]) -> list[int]:
    """Process ids in these cgroups and below."""
    found: list[int] = []
    for cgroup in cgroups:
        for procs in cgroup.rglob("cgroup.procs"):
            found += map(int, procs.read_text().split())
    return found


def resident_bytes(cgroups: Iterable[Path]) -> int:
    """Proportional set size of all processes: a page that n of them share counts once in total.

    Plain RSS would count what forked processes share once for each.
    """
    return sum(_pss_bytes(pid) for pid in processes(cgroups))


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # It ended meanwhile.
    return parse_pss(text)


def parse_pss(text: str) -> int:
    """Bytes of the line `Pss:` of a smaps_rollup."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0  # A kernel thread or a process about to end has no memory.


def pin(cgroups: Iterable[Path], core: int) -> None:
    """Bind every thread of these cgroups to one core; what they start later inherits it."""
    for pid in processes(cgroups):
        for task in _tasks(pid):
            try:
                os.sched_setaffinity(task, {core})
            except ProcessLookupError:
                continue  # A thread that just ended.


def _tasks(pid: int) -> Iterator[int]:
    try:
        yield from (int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return
