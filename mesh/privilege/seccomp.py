"""A filter of system calls for processes that parse bytes from the network.

A deny list over default-allow: what an interpreter, OpenSSL and libuv call on all the kernels and
libcs we run on cannot be listed with confidence, what a worker must never do can. Refused calls
fail with EPERM; calls of a foreign ABI (32 bit, x32) kill the process. libseccomp is called
through ctypes, its constants are from seccomp.h (API 2.5).
"""

from __future__ import annotations

import ctypes
import errno
import os

from mesh.errors import KernelError

LIBRARY = "libseccomp.so.2"

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_CLONE_THREAD = 0x00010000
_ATTRIBUTE_TSYNC = 4
_COMPARE_NOT_EQUAL = 1
_COMPARE_MASKED_EQUAL = 7
_NOT_ON_THIS_ABI = -1
"""__NR_SCMP_ERROR: the library does not know the name."""

DENIED = (
    # other programs
    *("execve", "execveat", "fork", "vfork", "uselib"),
    # other processes
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease"),
    *("pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kcmp", "kill", "tkill"),
    *("rt_sigqueueinfo", "rt_tgsigqueueinfo", "migrate_pages", "move_pages"),
    # namespaces and mounts
    *("setns", "unshare", "mount", "umount", "umount2", "pivot_root", "chroot", "fsopen"),
    *("fsconfig", "fsmount", "fspick", "move_mount", "open_tree", "open_tree_attr"),
    *("mount_setattr", "name_to_handle_at", "open_by_handle_at", "fanotify_init"),
    # kernel interfaces with a history of holes
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter"),
    *("io_uring_register", "add_key", "request_key", "keyctl", "personality", "modify_ldt"),
    *("lookup_dcookie", "vmsplice", "remap_file_pages", "_sysctl", "sysfs", "ustat"),
    # the machine
    *("init_module", "finit_module", "delete_module", "create_module", "kexec_load"),
    *("kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd"),
    *("syslog", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm"),
    *("sethostname", "setdomainname", "vhangup", "nfsservctl"),
)
"""Refused with EPERM. A name that an architecture does not have is skipped."""


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


def install_seccomp(*, allow_sockets: bool = False) -> None:
    """Refuse `DENIED`, new processes and, unless `allow_sockets`, socket(2), from here on.

    Holds for all threads of the process, later ones too. socketpair(2) stays: an event loop makes
    a pair for signals, and it reaches nobody. Raises `KernelError` if the library is missing or
    the kernel refuses.
    """
    library = _load()
    filter_ = library.seccomp_init(_ALLOW)
    if not filter_:
        raise KernelError("seccomp_init", errno.ENOMEM)
    try:
        _check("TSYNC", library.seccomp_attr_set(filter_, _ATTRIBUTE_TSYNC, 1))
        for name in DENIED if allow_sockets else (*DENIED, "socket"):
            _refuse(library, filter_, name)
        no_thread = _Compare(0, _COMPARE_MASKED_EQUAL, _CLONE_THREAD, 0)
        _refuse(library, filter_, "clone", no_thread)
        # Its flags are in memory, out of a filter's reach; with ENOSYS the libc uses clone.
        _refuse(library, filter_, "clone3", error=errno.ENOSYS)
        # abort() signals itself; signals for others are refused.
        _refuse(library, filter_, "tgkill", _Compare(0, _COMPARE_NOT_EQUAL, os.getpid(), 0))
        _check("load", library.seccomp_load(filter_))
    finally:
        library.seccomp_release(filter_)


def _refuse(
    library: ctypes.CDLL,
    filter_: int,
    name: str,
    compare: _Compare | None = None,
    error: int = errno.EPERM,
) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == _NOT_ON_THIS_ABI:
        return
    arguments = (_Compare * 1)(compare) if compare is not None else None
    count = 0 if compare is None else 1
    _check(name, library.seccomp_rule_add_array(filter_, _ERRNO | error, number, count, arguments))


def _check(what: str, result: int) -> None:
    """libseccomp returns negative error numbers."""
    if result < 0:
        raise KernelError(f"seccomp {what}", -result)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise KernelError(LIBRARY, errno.ENOENT, "Install the package libseccomp2.") from error
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Compare),
    ]
    return library
