"""What `meshnode bpf …` shows: decoded map entries as plain values.

Ids that need 64 bits (cookies) are ints here; a JSON writer turns them into text. Addresses are
text, ports host order, times seconds. `workload` fields are numbers; names come from the saved
numbering (`agent.capture.inspect.saved_numbering`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

WIDE = ("netns_cookie", "socket_cookie", "id", "prog_id", "target")
"""Kernel ids that JSON carries as text."""


class KernelTable(StrEnum):
    """One listing of the kernel's state."""

    MAPS = "maps"
    PROGS = "progs"
    LINKS = "links"
    ENROLLED = "enrolled"
    ORIGDST = "origdst"
    IDENTITY = "identity"
    POLICY = "policy"
    SERVICE = "service"
    STATS = "stats"
    FLOWS = "flows"
    DROPS = "drops"
    FSCK = "fsck"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapView:
    """One pinned map. `entries` is None where the kernel cannot count (ring, socket storage)."""

    name: str
    id: int
    type: str
    key_bytes: int
    value_bytes: int
    entries: int | None
    max_entries: int
    memlock_bytes: int
    schema: str
    pin: str
    problem: str = ""

    @property
    def full_percent(self) -> float | None:
        if self.entries is None or not self.max_entries:
            return None
        return 100.0 * self.entries / self.max_entries


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgView:
    """One pinned program. Run counts need `sysctl kernel.bpf_stats_enabled=1`."""

    name: str
    id: int
    tag: str
    verified_insns: int
    run_count: int
    run_time_ns: int
    pin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """One pinned link. `target` is a cgroup id or namespace inode; `defunct` = target is gone."""

    name: str
    id: int
    prog_id: int
    prog: str
    attach: str
    target: int
    defunct: bool
    pin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledView:
    """One captured namespace. `listeners` are its addresses with a plaintext listener."""

    netns_cookie: int
    workload: int
    src_class: int
    flags: tuple[str, ...]
    addresses: tuple[str, ...]
    listeners: tuple[str, ...]
    excluded_ports: tuple[int, ...]
    excluded_uids: tuple[int, ...]
    excluded_inbound_ports: tuple[int, ...]
    excluded_cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrigDstView:
    """A captured connection that ztunnel has not asked about yet."""

    netns_cookie: int
    src: str
    src_port: int
    dst: str
    dst_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityView:
    """One address the kernel knows."""

    address: str
    workload: int
    netns_cookie: int
    dst_class: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """One same-node verdict; port 0 = every other port."""

    src_class: int
    dst_class: int
    port: int
    verdict: str
    policy_reason: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendView:
    """One backend; `missing` = the service counts it but there is no entry (dangling)."""

    index: int
    address: str
    port: int
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """One virtual address and port with its backends."""

    vip: str
    port: int
    service: int
    flags: tuple[str, ...]
    backends: tuple[BackendView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsView:
    """Sums over all processors since the entry was made."""

    src_workload: int
    dst_workload: int
    port: int
    path: str
    opened: int
    closed: int
    failed: int
    bytes_sent: int
    bytes_received: int
    retransmits: int
    mean_rtt_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DropView:
    """How often a hook ended with a reason. `refusal` = the connection was refused or dropped."""

    reason: str
    number: int
    count: int
    refusal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowView:
    """One open direct connection."""

    socket_cookie: int
    netns_cookie: int
    src: str
    src_port: int
    dst: str
    dst_port: int
    src_workload: int
    dst_workload: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One entry where the kernel and the desired state disagree; empty text = not there."""

    map: str
    key: str
    desired: str
    actual: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong inside the kernel's state itself, and what to do about it."""

    severity: str
    where: str
    message: str
