"""bpf(2) without a library: the commands used here, each as one function.

Attribute layouts are those of `union bpf_attr` in linux/bpf.h; the kernel takes a longer attribute
whose tail is zero, so one size serves all kernels. Descriptors are close-on-exec. Every function
raises `KernelError` naming what it was about. x86-64 and arm64 numbers of the system call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

from mesh.errors import KernelError

_NR_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 280)
_ATTR_BYTES = 144
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]
_syscall.restype = ctypes.c_long

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY = 0, 1, 2, 3, 4
PROG_LOAD, OBJ_PIN, OBJ_GET = 5, 6, 7
PROG_BY_ID, INFO_BY_FD, BTF_LOAD, LOOKUP_BATCH = 13, 15, 18, 24
LINK_CREATE, LINK_UPDATE, LINK_DETACH = 28, 29, 34

LINK_TYPE_NETNS = 5
"""BPF_LINK_TYPE_NETNS."""

ROOT_HINT = "Run it as root (CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN)."

Buffer = ctypes.Array[ctypes.c_char]
_DESCRIPTOR_AND_LENGTH = struct.Struct("=II")


def bpf_call(command: int, attr: Buffer) -> int:
    """Call the kernel; -1 on error, with the number in `ctypes.get_errno()`."""
    return int(_syscall(_NR_BPF, command, attr, len(attr)))


def new_attr(fmt: str, *values: int | bytes) -> Buffer:
    """A zero-padded attribute; `fmt` as in `struct`, native order without padding."""
    return ctypes.create_string_buffer(struct.pack("=" + fmt, *values), _ATTR_BYTES)


def checked(command: int, what: str, fmt: str, *values: int | bytes, hint: str = "") -> int:
    """Call the kernel or raise `KernelError`."""
    result = bpf_call(command, new_attr(fmt, *values))
    if result < 0:
        number = ctypes.get_errno()
        raise KernelError(what, number, ROOT_HINT if number == errno.EPERM and not hint else hint)
    return result


def address_of(buffer: Buffer) -> int:
    """Where a buffer is; it must stay referenced while the kernel uses it."""
    return ctypes.addressof(buffer)


def map_create(
    name: str,
    map_type: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    flags: int,
    btf: tuple[int, int, int] = (0, 0, 0),
) -> int:
    """Make a map; `btf` = (descriptor, key type id, value type id), demanded by socket storage."""
    return checked(
        MAP_CREATE,
        f"map {name}",
        "IIIIIII16sIIII",
        *(map_type, key_size, value_size, max_entries, flags, 0, 0, name.encode(), 0),
        *btf,
    )


def btf_load(raw: bytes) -> int:
    """Load type information."""
    data = ctypes.create_string_buffer(raw, len(raw))
    return checked(BTF_LOAD, "BTF", "QQIII", address_of(data), 0, len(raw), 0, 0)


def obj_pin(fd: int, path: str) -> None:
    """Pin an object; the file must not exist."""
    raw = ctypes.create_string_buffer(path.encode())
    checked(OBJ_PIN, f"pin {path}", "QII", address_of(raw), fd, 0)


def obj_get(path: str) -> int:
    """Open a pinned object."""
    raw = ctypes.create_string_buffer(path.encode())
    return checked(OBJ_GET, f"pin {path}", "QII", address_of(raw), 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Code ready to be loaded."""

    name: str
    type: int
    attach: int
    code: bytes
    license: str


def prog_load(program: Program, log_bytes: int = 0) -> int:
    """Load a program. On refusal it is tried again with a log, whose end goes into the error."""
    insns = ctypes.create_string_buffer(program.code, len(program.code))
    licence = ctypes.create_string_buffer(program.license.encode())
    log = ctypes.create_string_buffer(max(log_bytes, 1))
    attr = new_attr(
        "IIQQIIQII16sII",
        *(program.type, len(program.code) // 8, address_of(insns), address_of(licence)),
        *(1 if log_bytes else 0, log_bytes, address_of(log) if log_bytes else 0),
        *(0, 0, program.name.encode(), 0, program.attach),
    )
    fd = bpf_call(PROG_LOAD, attr)
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    if not log_bytes and number not in (errno.EPERM, errno.ENOSPC):
        return prog_load(program, log_bytes=1 << 22)
    tail = "\n".join(log.value.decode(errors="replace").splitlines()[-50:])
    said = f"\nKernel {os.uname().release}, end of the verifier's log:\n{tail}" if tail else ""
    raise KernelError(
        f"program {program.name}", number, ROOT_HINT if number == errno.EPERM else said
    )


def link_create(prog_fd: int, target_fd: int, attach: int, what: str) -> int:
    """Attach a program; the link goes away with its last descriptor or pin."""
    return checked(LINK_CREATE, what, "IIII", prog_fd, target_fd, attach, 0)


def link_update(link_fd: int, prog_fd: int, what: str) -> None:
    """Replace a link's program atomically. ENOLINK: the target is gone."""
    checked(LINK_UPDATE, what, "IIII", link_fd, prog_fd, 0, 0)


def link_detach(link_fd: int, what: str) -> None:
    """Detach for good, pinned or not."""
    checked(LINK_DETACH, what, "I", link_fd)


def prog_by_id(prog_id: int) -> int:
    """Open a program by its id."""
    return checked(PROG_BY_ID, f"program {prog_id}", "III", prog_id, 0, 0)


class MapInfo(ctypes.Structure):
    """Beginning of `struct bpf_map_info`."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
        ("rest", ctypes.c_uint8 * 64),
    ]


class ProgInfo(ctypes.Structure):
    """Beginning of `struct bpf_prog_info`; the arrays it can fill are not asked for."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("lengths", ctypes.c_uint32 * 2),
        ("code", ctypes.c_uint64 * 2),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("gpl_compatible", ctypes.c_uint32),
        ("netns", ctypes.c_uint64 * 2),
        ("nr_ksyms", ctypes.c_uint32 * 2),
        ("ksyms", ctypes.c_uint64 * 2),
        ("btf_id", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("nr_info", ctypes.c_uint32 * 2),
        ("line_info", ctypes.c_uint64 * 2),
        ("line_counts", ctypes.c_uint32 * 3),
        ("nr_prog_tags", ctypes.c_uint32),
        ("prog_tags", ctypes.c_uint64),
        ("run_time_ns", ctypes.c_uint64),
        ("run_count", ctypes.c_uint64),
        ("recursion_misses", ctypes.c_uint64),
        ("verified_insns", ctypes.c_uint32),
        ("rest", ctypes.c_uint32 * 3),
    ]


class LinkInfo(ctypes.Structure):
    """Beginning of `struct bpf_link_info`; `target` is a cgroup id, or a namespace inode and the
    attach type in one number."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("target", ctypes.c_uint64),
        ("attach_type", ctypes.c_uint32),
        ("rest", ctypes.c_uint32 * 9),
    ]


def _fill_info(fd: int, info: ctypes.Structure, what: str) -> None:
    checked(INFO_BY_FD, what, "IIQ", fd, ctypes.sizeof(info), ctypes.addressof(info))


def map_info(fd: int) -> MapInfo:
    info = MapInfo()
    _fill_info(fd, info, "map")
    return info


def prog_info(fd: int) -> ProgInfo:
    info = ProgInfo()
    _fill_info(fd, info, "program")
    return info


def link_info(fd: int) -> LinkInfo:
    info = LinkInfo()
    _fill_info(fd, info, "link")
    return info


class LinkReader:
    """Reads one link after another into buffers made once: for hundreds of links a second."""

    def __init__(self) -> None:
        self.info = LinkInfo()
        self._attr = new_attr("IIQ", 0, 0, ctypes.addressof(self.info))

    def read(self, fd: int) -> LinkInfo:
        """The same object each time. Raises `KernelError`."""
        # The kernel writes the length that it filled back into the attribute.
        _DESCRIPTOR_AND_LENGTH.pack_into(self._attr, 0, fd, ctypes.sizeof(self.info))
        if bpf_call(INFO_BY_FD, self._attr) < 0:
            raise KernelError("link", ctypes.get_errno())
        return self.info


def memlock_bytes(fd: int) -> int:
    """Memory that the kernel accounts to a map (0 where it does not say)."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            for line in file:
                if line.startswith("memlock:"):
                    return int(line.split()[1])
    except (OSError, ValueError):
        return 0
    return 0
