"""Run a program inside a cgroup and a network namespace. Executed by path, never imported.

    python -I -S launch.py PARENT_PID CGROUP NETNS_PATH PROGRAM ARG...

The order matters: cgroup hooks look at where a socket is created, so the program must be in its
cgroup before it starts; and an agent takes the namespace of whoever is in a pod's cgroup for the
pod's, so it must be the right one by then. Only the network namespace is entered: `ip netns exec`
would also hide bpffs and the cgroup tree behind a fresh /sys. The program dies with its parent.
"""

import ctypes
import os
import signal
import sys

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
# Same as a shell's: the program could not be run. Other exit codes are the program's own.
CANNOT_RUN = 127


def main() -> None:
    parent, cgroup, netns, *argv = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the lab is gone")  # it died before the line above took effect
    fd = os.open(netns, os.O_RDONLY)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        sys.exit(f"{netns}: {os.strerror(ctypes.get_errno())}")
    os.close(fd)
    with open(os.path.join(cgroup, "cgroup.procs"), "w") as procs:
        procs.write("0")
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(CANNOT_RUN)


main()
