"""What a container withholds from the agent although it has the right to it.

A container runtime mounts /proc/sys read-only unless the container is privileged, which would be
far more than is needed. The agent writes three sysctls of pods' own namespaces; with CAP_SYS_ADMIN
it may make the mount writable for itself.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from mesh.errors import KernelError

_SYSCTLS = "/proc/sys"
# linux/mount.h
_FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "relatime": 1 << 21}
_REMOUNT, _BIND = 32, 4096


def open_sysctls(mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Make /proc/sys writable where it is a mount of its own that is not; whether it had to be.

    Raises `KernelError`.
    """
    options: list[str] = []
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == _SYSCTLS:
            options = fields[3].split(",")  # the last mount of a place is the one in force
    if "ro" not in options:
        return False
    flags = _REMOUNT | _BIND
    for option in options:
        flags |= _FLAGS.get(option, 0) if option != "ro" else 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, _SYSCTLS.encode(), None, ctypes.c_ulong(flags), None) != 0:
        code = ctypes.get_errno()
        hint = "It is read-only here: the container needs CAP_SYS_ADMIN and no AppArmor profile."
        raise KernelError(_SYSCTLS, code, hint)
    return True
