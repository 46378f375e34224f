"""Gathers what `meshnode check` judges. Reads only; nothing on the machine changes."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from agent.admin.client import AdminClient
from agent.admin.view import NodeStatus
from agent.capture.cgroup import cgroup_mount
from agent.capture.features import is_bpffs
from agent.capture.headers import find_headers
from agent.capture.probe import Feature, probe
from agent.paths import SCHEMA_VERSION, NodePaths
from bpf.layout import MAPS, PROGRAMS
from mesh.errors import MeshnodeError

MODULES = (
    "aiohttp", "cffi", "click", "cryptography", "h2", "msgspec", "prometheus_client", "pyroute2",
    "uvloop", "watchfiles", "yaml",
)  # fmt: skip
METRICS_PORT = 15020
_TIME_ERROR = 5  # adjtimex(2): clock not synchronised
_TIMEX_BYTES = 208


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """This machine.

    Attributes:
        cgroup, headers: path, or empty with the reason beside it.
        clock_synchronised: None where the kernel does not say.
        features: what was tried of the kernel; None = needs root.
    """

    is_root: bool
    python: str
    missing_modules: tuple[str, ...]
    has_bcc: bool
    has_seccomp: bool
    has_nghttp2: bool
    headers: str
    headers_problem: str
    clock_synchronised: bool | None
    kernel: str
    kernel_version: tuple[int, int]
    cgroup: str
    has_bpffs: bool
    features: tuple[Feature, ...] | None
    metrics_port_taken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """The node on this machine.

    Attributes:
        pinned, expected: names under `maps/`, `progs/`, `links/` of our schema version.
        other_schemas: directories of pins of other versions.
        status: None without a running agent; then `no_status` says why.
    """

    node: str
    can_read_pins: bool
    pinned_maps: tuple[str, ...] = ()
    pinned_progs: tuple[str, ...] = ()
    pinned_links: tuple[str, ...] = ()
    missing_maps: tuple[str, ...] = ()
    missing_progs: tuple[str, ...] = ()
    other_schemas: tuple[str, ...] = ()
    status: NodeStatus | None = None
    no_status: str = ""


def machine_facts() -> MachineFacts:
    """Look at this machine."""
    headers, headers_problem = _attempt(_headers)
    cgroup, _ = _attempt(_cgroup)
    is_root = os.geteuid() == 0
    return MachineFacts(
        is_root=is_root,
        python=platform.python_version(),
        missing_modules=tuple(name for name in MODULES if find_spec(name) is None),
        has_bcc=find_spec("bcc") is not None,
        has_seccomp=_has_library("libseccomp.so.2"),
        has_nghttp2=find_spec("mesh.http2._nghttp2") is not None,
        headers=headers,
        headers_problem=headers_problem,
        clock_synchronised=_clock_synchronised(),
        kernel=platform.release(),
        kernel_version=_kernel_version(platform.release()),
        cgroup=cgroup,
        has_bpffs=is_bpffs(),
        features=tuple(probe()) if is_root else None,
        metrics_port_taken=_is_taken(METRICS_PORT),
    )


def node_facts(paths: NodePaths) -> NodeFacts:
    """Look at a node: its pins and, if it runs, its agent."""
    status, no_status = _status(paths)
    try:
        schemas = sorted(entry.name for entry in paths.pin_root.iterdir())
    except FileNotFoundError:
        schemas = []
    except PermissionError:
        return NodeFacts(node=paths.node, can_read_pins=False, status=status, no_status=no_status)
    maps, progs = _names(paths, "maps"), _names(paths, "progs")
    return NodeFacts(
        node=paths.node,
        can_read_pins=True,
        pinned_maps=maps,
        pinned_progs=progs,
        pinned_links=_names(paths, "links"),
        missing_maps=tuple(spec.name for spec in MAPS if spec.name not in maps),
        missing_progs=tuple(spec.name for spec in PROGRAMS if spec.name not in progs),
        other_schemas=tuple(name for name in schemas if name != f"v{SCHEMA_VERSION}"),
        status=status,
        no_status=no_status,
    )


def _status(paths: NodePaths) -> tuple[NodeStatus | None, str]:
    try:
        return AdminClient(paths.node, paths.admin_socket).status(), ""
    except MeshnodeError as error:
        return None, str(error)


def _names(paths: NodePaths, kind: str) -> tuple[str, ...]:
    directory = paths.pin_dir / kind
    return tuple(sorted(entry.name for entry in directory.rglob("*"))) if directory.is_dir() else ()


def _attempt(find: Callable[[], str]) -> tuple[str, str]:
    try:
        return find(), ""
    except MeshnodeError as error:
        return "", str(error)


def _headers() -> str:
    return str(find_headers(platform.release(), os.environ).generated)


def _cgroup() -> str:
    return str(cgroup_mount())


def _has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _clock_synchronised() -> bool | None:
    """Ask adjtimex(2) without changing anything (modes = 0)."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR


def _kernel_version(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
