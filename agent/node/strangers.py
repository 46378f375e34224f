"""Workers that outlived the node process that started them, known by one file per process.

A file is named by the process id and holds the process's start time, so that a number that was
given to another process meanwhile is never signalled.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.paths import NodePaths

KILL_WAIT_S = 5.0


def process_start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot. Raises `OSError` if there is none."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[19])


def drain_strangers(paths: NodePaths, own: Iterable[int]) -> list[int]:
    """SIGTERM (drain) the workers of an earlier node process. Returns their process ids."""
    drained = []
    for pid in _recorded(paths, set(own)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            drained.append(pid)
    return drained


def kill_workers(paths: NodePaths) -> list[int]:
    """SIGKILL every worker of the node and wait for the end of each. Returns their process ids."""
    killed = []
    for pid in _recorded(paths, set()):
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                select.select([process], [], [], KILL_WAIT_S)
            finally:
                os.close(process)
            killed.append(pid)
    return killed


def _recorded(paths: NodePaths, own: set[int]) -> Iterator[int]:
    """Living workers but `own`; files of dead ones are removed."""
    for entry in list(paths.workers_dir.iterdir()) if paths.workers_dir.is_dir() else ():
        pid = int(entry.name) if entry.name.isdigit() else 0
        if pid in own:
            continue
        with contextlib.suppress(OSError, ValueError):
            if pid and process_start_ticks(pid) == int(entry.read_text()):
                yield pid
                continue
        entry.unlink(missing_ok=True)
