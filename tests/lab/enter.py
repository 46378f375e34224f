"""Become a program of a pod of a running lab: `python -m tests.lab.enter LAB NODE POD PROGRAM…`."""

from __future__ import annotations

import os
import sys

from agent.netns import CLONE_NEWNET, open_netns
from tests.lab.system import NETNS_ROOT, LabError, cgroup2_mount

USAGE = "usage: python -m tests.lab.enter LAB NODE POD PROGRAM [ARGUMENT...]"


def main() -> None:
    """Enter the pod's cgroup, then its network namespace, then run the program."""
    if len(sys.argv) < 5:
        sys.exit(USAGE)
    lab, node, pod, *argv = sys.argv[1:]
    cgroup = cgroup2_mount() / lab / node / "pods" / pod
    if not cgroup.is_dir():
        raise LabError(f"no pod {pod} on node {node} of lab {lab}: is the demo still up?")
    (cgroup / "cgroup.procs").write_text("0")
    netns = open_netns(str(NETNS_ROOT / f"{lab}-{node}-{pod}"))
    launch_in(netns, argv)


def launch_in(netns_fd: int, argv: list[str]) -> None:
    """setns and exec; the process has one thread here."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(netns_fd, CLONE_NEWNET) != 0:
        raise LabError(f"setns: {os.strerror(ctypes.get_errno())}")
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main()
