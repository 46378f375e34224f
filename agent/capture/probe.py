"""What the kernel must be able to do: each feature is tried, not guessed from a version."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from agent.capture import features as trial
from agent.capture import syscalls
from agent.capture.cgroup import cgroup_mount
from agent.capture.headers import find_headers
from agent.capture.table import create_table
from agent.netns import socket_netns_cookie
from bpf.layout import MAPS, AttachType, MapType, ProgType
from mesh.errors import KernelError

_SOCK_ADDR_SK = 64
"""Offset of `sk` in `struct bpf_sock_addr`."""
_NETNS_COOKIE, _CGROUP_ID = 122, 123
"""Numbers of the helpers bpf_get_netns_cookie and bpf_get_current_ancestor_cgroup_id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One thing we need.

    Attributes:
        since: the first kernel that has it, empty where it does not depend on the version.
        required: without it an agent does not start; else `detail` says what is worse.
        detail: why it is missing, or what its absence means.
    """

    name: str
    since: str
    required: bool
    present: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    since: str
    trial: Callable[[], None]
    required: bool = True
    without: str = ""


def probe() -> list[Feature]:
    """Try everything; needs root, and attaches or pins nothing."""
    return [_run(check) for check in _CHECKS]


def require(features: list[Feature]) -> None:
    """Raise `KernelError` that names every missing required feature and its kernel version."""
    missing = [f for f in features if f.required and not f.present]
    if missing:
        named = "; ".join(
            f"{f.name}{f' (Linux {f.since} and later)' if f.since else ''}: {f.detail}"
            for f in missing
        )
        raise KernelError(f"kernel {os.uname().release} lacks", hint=named)


def _run(check: _Check) -> Feature:
    try:
        check.trial()
    except (KernelError, OSError) as error:
        present, detail = False, str(error).splitlines()[0]
        if check.without:
            detail = f"{check.without} ({detail})"
    else:
        present, detail = True, ""
    return Feature(
        name=check.name,
        since=check.since,
        required=check.required,
        present=present,
        detail=detail,
    )


def _map(kind: MapType) -> Callable[[], None]:
    spec = next(spec for spec in MAPS if spec.type is kind)
    return lambda: create_table(spec).close()


def _program(kind: ProgType, attach: AttachType, code: bytes) -> Callable[[], None]:
    return lambda: trial.loads(kind, attach, code)


def _storage_at_connect() -> None:
    spec = next(spec for spec in MAPS if spec.type is MapType.SK_STORAGE)
    with create_table(spec) as table:
        code = trial.reads_storage(table.fd, _SOCK_ADDR_SK)
        trial.loads(ProgType.SOCK_ADDR, AttachType.INET4_CONNECT, code)


def _cookie_option() -> None:
    with socket.socket() as probe_socket:
        socket_netns_cookie(probe_socket)


def _bpf_file_system() -> None:
    if not trial.is_bpffs() and not os.path.isdir(trial.BPFFS):
        raise KernelError(trial.BPFFS, errno.ENOENT)


def _links() -> None:
    """A link to a descriptor that is no cgroup is refused as such, not as an unknown command."""
    attr = syscalls.new_attr("IIII", 0xFFFFFFFF, 0xFFFFFFFF, AttachType.SOCK_OPS, 0)
    syscalls.bpf_call(syscalls.LINK_CREATE, attr)
    if ctypes.get_errno() not in (errno.EBADF, 0):
        raise KernelError("BPF_LINK_CREATE", ctypes.get_errno())


def _cgroup2() -> None:
    cgroup_mount()


def _headers() -> None:
    find_headers(os.uname().release, os.environ)


def _root() -> None:
    if os.geteuid() != 0:
        raise KernelError("not root", hint="Run it again with sudo.")


_COOKIE = trial.calls_helper(_NETNS_COOKIE)

_CHECKS = (
    _Check("root", "", _root),
    _Check("cgroup v2", "4.5", _cgroup2),
    _Check("BPF file system", "4.4", _bpf_file_system),
    _Check("kernel headers for bcc", "", _headers),
    _Check("BPF links", "5.7", _links),
    _Check("ring buffer", "5.8", _map(MapType.RINGBUF)),
    _Check("socket hash", "4.18", _map(MapType.SOCKHASH)),
    _Check("LPM trie", "4.11", _map(MapType.LPM_TRIE)),
    _Check("socket storage at connect", "5.10", _storage_at_connect),
    _Check("netns cookie of a socket", "5.14", _cookie_option),
    _Check(
        "connect hook with netns cookie",
        "5.7",
        _program(ProgType.SOCK_ADDR, AttachType.INET4_CONNECT, _COOKIE),
    ),
    _Check(
        "connect hook with cgroup id",
        "5.7",
        _program(ProgType.SOCK_ADDR, AttachType.INET6_CONNECT, trial.calls_helper(_CGROUP_ID, 1)),
    ),
    _Check(
        "getpeername hook",
        "5.8",
        _program(ProgType.SOCK_ADDR, AttachType.INET4_GETPEERNAME, _COOKIE),
    ),
    _Check(
        "getsockopt hook with netns cookie",
        "5.15",
        _program(ProgType.CGROUP_SOCKOPT, AttachType.GETSOCKOPT, _COOKIE),
    ),
    _Check(
        "sockops with netns cookie",
        "5.15",
        _program(ProgType.SOCK_OPS, AttachType.SOCK_OPS, _COOKIE),
    ),
    _Check(
        "socket lookup hook",
        "5.9",
        _program(ProgType.SK_LOOKUP, AttachType.SK_LOOKUP, trial.reads_context(12)),
    ),
    _Check(
        "chosen error at connect",
        "5.18",
        _program(ProgType.SOCK_ADDR, AttachType.INET4_CONNECT, trial.SET_RETVAL),
        required=False,
        without="a denied connect() shows EPERM instead of ECONNREFUSED",
    ),
    _Check(
        "interface at socket lookup",
        "5.17",
        _program(ProgType.SK_LOOKUP, AttachType.SK_LOOKUP, trial.LOOKUP_IFINDEX),
        required=False,
        without="loopback is recognised by address alone",
    ),
)
