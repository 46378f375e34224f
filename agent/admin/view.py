"""Everything a node shows, as values, and the seam behind which the node process sits.

The same classes are encoded by the server and decoded by the client (`agent.admin.codec`), so both
agree on names and types. Ids of 64 bits are text, because JSON readers lose digits above 2**53.
Instants are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from agent.capture.views import KernelTable
from mesh.model.connection import ConnectionRecord, Path, Reporter
from mesh.model.snapshot import MeshSnapshot, Problem
from mesh.telemetry.tap import Tap
from mesh.telemetry.window_answer import Traffic

SCHEMA_VERSION = 1
"""Version of the JSON of the admin socket and of `-o json`; raised when a field changes meaning."""


class PodState(StrEnum):
    """How far the enrolment of a pod has come."""

    PENDING = "pending"
    ACTIVE = "active"
    """The canary connection went through the mesh."""
    FAILED = "failed"


class CertificateState(StrEnum):
    """Whether a certificate can be used."""

    VALID = "valid"
    PENDING = "pending"
    EXPIRED = "expired"
    FAILED = "failed"


class LogLevel(StrEnum):
    """Levels of the node's own log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodStatus:
    """One local workload that is to be in the mesh.

    Attributes:
        reason: why it is pending or failed, empty when active.
        cookie: netns cookie as decimal text, empty before the namespace was found.
        since: when it got into this state.
    """

    uid: str
    namespace: str
    name: str
    state: PodState
    reason: str = ""
    identity: str = ""
    cookie: str = ""
    since: float
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One ztunnel worker process. `revision` is the snapshot it serves."""

    pid: int
    ready: bool
    revision: int = 0
    tunnels: int = 0
    streams: int = 0
    rss_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderStatus:
    """The process that owns the listening sockets."""

    pid: int
    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """The certificate of one identity.

    Attributes:
        reason: why it is not valid; the last failed renewal while the old one still holds.
        next_renewal_at: 0 where nothing is planned.
    """

    identity: str
    state: CertificateState
    serial: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    next_renewal_at: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The node at one instant.

    Attributes:
        source: as given, `file:DIR` or `kubernetes`.
        applied_revision: newest snapshot that the kernel's maps and all workers hold.
        not_ready: why the node is not ready; empty when it is.
        open_connections: by path.
    """

    schema_version: int = SCHEMA_VERSION
    node: str
    version: str
    pid: int
    started_at: float
    source: str
    revision: int
    applied_revision: int
    log_level: LogLevel = LogLevel.INFO
    not_ready: tuple[str, ...] = ()
    pods: tuple[PodStatus, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    holder: HolderStatus | None = None
    problems: tuple[Problem, ...] = ()
    certificates: tuple[CertificateStatus, ...] = ()
    open_connections: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConnection:
    """One open connection; names and identities are empty where unknown."""

    reporter: Reporter
    path: Path
    src_addr: str
    dst_addr: str
    opened_at: float
    src: str = ""
    dst: str = ""
    src_identity: str = ""
    dst_identity: str = ""
    service: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """Open connections of a node."""

    schema_version: int = SCHEMA_VERSION
    node: str
    connections: tuple[LiveConnection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Certificates of a node."""

    schema_version: int = SCHEMA_VERSION
    node: str
    certificates: tuple[CertificateStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus:
    """The level of the node's own log."""

    schema_version: int = SCHEMA_VERSION
    node: str
    level: LogLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest:
    """Body of POST /v1/log."""

    level: LogLevel


class DiffKind(StrEnum):
    """How a map entry differs from what should be there."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffEntry:
    """One difference; key and values are decoded text, empty where there is none."""

    map: str
    kind: DiffKind
    key: str
    wanted: str = ""
    found: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BpfDiff:
    """What the kernel holds against what the snapshot asks for."""

    schema_version: int = SCHEMA_VERSION
    node: str
    revision: int
    compared: int
    """Entries looked at."""
    entries: tuple[DiffEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEntries:
    """One listing of the kernel's state (`agent.capture.views`).

    Attributes:
        entries: as plain values; ids of 64 bits are text.
        workloads, services: names for the numbers in them.
    """

    schema_version: int = SCHEMA_VERSION
    node: str
    table: KernelTable
    entries: tuple[Mapping[str, object], ...]
    workloads: Mapping[int, str]
    services: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEvent:
    """One event of the kernel programs: a direct connection that ended, or one refused.

    Attributes:
        verdict: `allowed`, `denied`, or `failed` for one that never came up.
        reason: word of the kernel's reason list; policy: the rule behind it, where one was.
        lost: kernel events that found no room in the ring, since the maps were made.
    """

    at: float
    verdict: str
    reason: str
    policy: str
    src: str
    dst: str
    src_addr: str
    dst_addr: str
    dialled: str
    cookie: str
    duration_s: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetail:
    """Why a request failed. `code` is stable, the texts are for people."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """Body of every answer that is not a success."""

    error: ErrorDetail


class NodeView(Protocol):
    """What the node process offers to the admin server. No call changes anything but the level."""

    def traffic(self, seconds: float, *, points: bool, about: str) -> Traffic:
        """The last `seconds` of traffic, from memory."""
        ...

    @property
    def tap(self) -> Tap[ConnectionRecord]:
        """Connections as they end."""
        ...

    @property
    def flows(self) -> Tap[FlowEvent]:
        """Events of the kernel programs."""
        ...

    def status(self) -> NodeStatus:
        """Describe the node as it is now, from memory: must not block."""
        ...

    def snapshot(self) -> MeshSnapshot:
        """The newest snapshot."""
        ...

    async def connections(self) -> Sequence[LiveConnection]:
        """Open connections, asked of the workers and the kernel."""
        ...

    async def bpf_diff(self) -> BpfDiff:
        """Compare the kernel's maps with the snapshot. Raises `KernelError`."""
        ...

    async def kernel_table(self, table: KernelTable) -> KernelEntries:
        """List one part of the kernel's state. Raises `KernelError`."""
        ...

    def set_log_level(self, level: LogLevel) -> None:
        """Set the level of this process and its workers."""
        ...
