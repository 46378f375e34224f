"""Give up privilege for good: user, capabilities, and the system calls a worker never needs.

For processes that parse bytes from the network. The order in a worker: `drop_privileges`, build
the event loop, `install_seccomp`, and only then the first connection. Nothing here can be undone;
what could not be dropped is an error, never a warning.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
from pathlib import Path

from mesh.errors import KernelError
from mesh.privilege.late import load_late_modules

NOBODY = 65534
WORKER_USER = "meshnode"

# linux/prctl.h, linux/capability.h
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

_CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def worker_ids() -> tuple[int, int]:
    """User and group id for workers: the system user `meshnode`, else nobody's numbers."""
    try:
        user = pwd.getpwnam(WORKER_USER)
    except KeyError:
        return NOBODY, NOBODY
    return user.pw_uid, user.pw_gid


def drop_privileges(uid: int, gid: int) -> None:
    """Become `uid`/`gid` without groups, capabilities or a way to get any back.

    Raises the limit of descriptors to the hard limit first and forbids core dumps (they would hold
    keys). Afterwards other processes of the same user cannot trace this one. Needs root and a
    process of one thread: capabilities belong to threads. Raises `KernelError` if anything is
    left, `ValueError` for uid or gid 0.
    """
    if uid <= 0 or gid <= 0:
        raise ValueError("a worker must not run as user or group 0")
    if len(os.listdir("/proc/self/task")) != 1:
        raise KernelError("drop privileges", 0, "Do it before the process starts a thread.")
    load_late_modules()
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)
        for capability in range(_last_capability() + 1):
            _prctl("bounding set", PR_CAPBSET_DROP, capability)
        _prctl("ambient capabilities", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise KernelError("drop privileges", error.errno or 0, "Start it as root.") from error
    _clear_capabilities()
    _prctl("dumpable", PR_SET_DUMPABLE, 0)
    verify_unprivileged(uid, gid)


def verify_unprivileged(uid: int, gid: int) -> None:
    """Raise `KernelError` naming what is left, unless this process is `uid`/`gid` and no more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    left = [name for name in _CAPABILITY_SETS if int(status[name][0], 16) != 0]
    if status["Uid"] != [str(uid)] * 4:
        left.append("Uid")
    if status["Gid"] != [str(gid)] * 4:
        left.append("Gid")
    if status["Groups"]:
        left.append("Groups")
    if status["NoNewPrivs"] != ["1"]:
        left.append("NoNewPrivs")
    if left:
        raise KernelError("drop privileges", 0, f"Still privileged: {', '.join(left)}.")


def _last_capability() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def _prctl(what: str, option: int, value: int) -> None:
    # prctl is variadic: every argument must be passed as a full register.
    words = [ctypes.c_ulong(word) for word in (value, 0, 0, 0)]
    if _libc.prctl(ctypes.c_int(option), *words) != 0:
        raise KernelError(f"prctl {what}", ctypes.get_errno(), "Start it as root.")


def _clear_capabilities() -> None:
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    nothing = (_CapData * 2)()
    if _libc.capset(ctypes.byref(header), ctypes.byref(nothing)) != 0:
        raise KernelError("capset", ctypes.get_errno())
