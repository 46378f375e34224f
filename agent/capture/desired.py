"""What the kernel's maps should hold, computed from a snapshot. Pure: no kernel, no files.

`reconcile` makes the maps equal to a `KernelState`; `meshnode bpf diff` compares them. The pods
map is the exception: `enrolment` adds and removes its entries in step with listeners and links,
`reconcile` only refreshes the values of those that exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.capture.numbering import Numbering, ServicePortKey
from bpf.layout import ConfigFlag, Exclusion, PodFlag, ServiceFlag, WorkloadFlag
from mesh.model.address import IPAddress, IPNetwork, SocketAddress
from mesh.model.kernel import KernelPolicy, VerdictKey, VerdictValue
from mesh.model.snapshot import MeshSnapshot, SameNode
from mesh.model.workload import Exclusions, Service, Workload, WorkloadUid

OUTBOUND_PORT = 15001
PLAINTEXT_PORT = 15006
HBONE_PORT = 15008
GRANT_TTL_NS = 60 * 10**9
"""A SYN that is still on its way after a minute has been given up by its sender."""

_NO_CONFIG_FLAGS = ConfigFlag(0)
_NO_POD_FLAGS = PodFlag(0)
_NO_WORKLOAD_FLAGS = WorkloadFlag(0)
_NO_SERVICE_FLAGS = ServiceFlag(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCgroup:
    """The cgroup whose processes are never captured: its id, and its depth below the root."""

    id: int
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigEntry:
    """The one entry of `mn_config`."""

    agent: AgentCgroup
    flags: ConfigFlag = _NO_CONFIG_FLAGS
    outbound_port: int = OUTBOUND_PORT
    plaintext_port: int = PLAINTEXT_PORT
    hbone_port: int = HBONE_PORT
    grant_ttl_ns: int = GRANT_TTL_NS


MAX_PACING = 2**32 - 2
"""Bytes per second; one more means no limit to the kernel (socket(7), SO_MAX_PACING_RATE)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodEntry:
    """Value of `mn_enrolled`. Class 0 = unknown to policy: every local pair goes to ztunnel."""

    workload: int
    src_class: int = 0
    flags: PodFlag = _NO_POD_FLAGS
    pacing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEntry:
    """Value of `mn_workload`; `netns_cookie` is 0 unless it is enrolled on this node."""

    workload: int
    netns_cookie: int = 0
    dst_class: int = 0
    flags: WorkloadFlag = _NO_WORKLOAD_FLAGS


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntry:
    """Value of `mn_service` and the backends it counts."""

    service: int
    backends: tuple[SocketAddress, ...]
    flags: ServiceFlag = _NO_SERVICE_FLAGS


@dataclass(frozen=True, slots=True, order=True)
class ExclusionEntry:
    """Key of `mn_exclude`: a port or user id that a pod's namespace is not captured for."""

    netns_cookie: int
    kind: Exclusion
    value: int


@dataclass(frozen=True, slots=True)
class ExcludedNet:
    """Key of `mn_exclude_net`: destinations that a pod's namespace reaches uncaptured."""

    netns_cookie: int
    network: IPNetwork


@dataclass(frozen=True, kw_only=True)
class KernelState:
    """The content of all maps that user space writes. `pods` is keyed by netns cookie."""

    config: ConfigEntry
    pods: Mapping[int, PodEntry]
    workloads: Mapping[IPAddress, WorkloadEntry]
    services: Mapping[SocketAddress, ServiceEntry]
    verdicts: Mapping[VerdictKey, VerdictValue]
    exclusions: frozenset[ExclusionEntry]
    excluded_nets: frozenset[ExcludedNet]
    probes: frozenset[IPAddress]


def number_snapshot(snapshot: MeshSnapshot, previous: Numbering) -> Numbering:
    """Numbers for everything in the snapshot, keeping those given before."""
    ports = (
        ServicePortKey(service.key, port.port, vip.version)
        for service in snapshot.services.values()
        for vip in service.addresses
        for port in service.ports
    )
    return previous.extended(snapshot.workloads, ports)


def desired_state(
    *,
    snapshot: MeshSnapshot,
    local: Mapping[WorkloadUid, int],
    policy: KernelPolicy,
    numbering: Numbering,
    agent: AgentCgroup,
) -> KernelState:
    """Compute the maps of one node.

    `local` holds the netns cookies of the pods that are enrolled here (or about to be);
    `numbering` must come from `number_snapshot` of the same snapshot. A local pod that the
    snapshot no longer knows is left out.
    """
    known = {uid: cookie for uid, cookie in local.items() if uid in snapshot.workloads}
    excluded = {known[uid]: snapshot.workloads[uid].exclusions for uid in known}
    encrypt = snapshot.settings.same_node is SameNode.ENCRYPT
    return KernelState(
        config=ConfigEntry(agent=agent, flags=ConfigFlag.ENCRYPT if encrypt else ConfigFlag(0)),
        pods={
            cookie: _pod_entry(snapshot.workloads[uid], policy, numbering)
            for uid, cookie in known.items()
        },
        workloads={
            address: _workload_entry(workload, known.get(workload.uid, 0), policy, numbering)
            for address, workload in snapshot.by_address.items()
        },
        services=dict(_services(snapshot, numbering)),
        verdicts=dict(policy.verdicts),
        exclusions=frozenset(
            entry for cookie, what in excluded.items() for entry in _exclusions(cookie, what)
        ),
        excluded_nets=frozenset(
            ExcludedNet(cookie, network)
            for cookie, what in excluded.items()
            for network in what.outbound_cidrs
        ),
        probes=frozenset(snapshot.settings.probe_sources),
    )


def _pod_entry(workload: Workload, policy: KernelPolicy, numbering: Numbering) -> PodEntry:
    return PodEntry(
        workload=numbering.workloads[workload.uid],
        src_class=policy.src_class.get(workload.uid, 0),
        flags=_pod_flags(workload.exclusions),
        pacing=min(workload.egress_bytes_per_s or 0, MAX_PACING),
    )


def _workload_entry(
    workload: Workload, cookie: int, policy: KernelPolicy, numbering: Numbering
) -> WorkloadEntry:
    flags = WorkloadFlag(0)
    if workload.enrolled:
        flags |= WorkloadFlag.ENROLLED
    if workload.waypoint:
        flags |= WorkloadFlag.WAYPOINT
    if cookie and workload.exclusions.inbound_ports:
        flags |= WorkloadFlag.EXCLUDES_INBOUND
    return WorkloadEntry(
        workload=numbering.workloads[workload.uid],
        netns_cookie=cookie if workload.enrolled else 0,
        dst_class=policy.dst_class.get(workload.uid, 0),
        flags=flags,
    )


def _pod_flags(exclusions: Exclusions) -> PodFlag:
    flags = PodFlag(0)
    if exclusions.outbound_ports:
        flags |= PodFlag.EXCLUDES_PORT
    if exclusions.outbound_uids:
        flags |= PodFlag.EXCLUDES_UID
    if exclusions.outbound_cidrs:
        flags |= PodFlag.EXCLUDES_CIDR
    return flags


def _exclusions(cookie: int, exclusions: Exclusions) -> Iterator[ExclusionEntry]:
    for kind, values in (
        (Exclusion.PORT, exclusions.outbound_ports),
        (Exclusion.UID, exclusions.outbound_uids),
        (Exclusion.INBOUND, exclusions.inbound_ports),
    ):
        for value in values:
            yield ExclusionEntry(cookie, kind, value)


def _services(
    snapshot: MeshSnapshot, numbering: Numbering
) -> Iterator[tuple[SocketAddress, ServiceEntry]]:
    for service in snapshot.services.values():
        for vip in service.addresses:
            for port in service.ports:
                key = ServicePortKey(service.key, port.port, vip.version)
                yield (
                    SocketAddress(vip, port.port),
                    ServiceEntry(
                        service=numbering.services[key],
                        backends=_backends(service, port.port, vip.version),
                        flags=ServiceFlag.WAYPOINT if service.waypoint else ServiceFlag(0),
                    ),
                )


def _backends(service: Service, port: int, family: int) -> tuple[SocketAddress, ...]:
    """Ready endpoints of one port and family, in a stable order."""
    found = {
        SocketAddress(endpoint.address, endpoint.ports[port])
        for endpoint in service.endpoints
        if endpoint.ready and port in endpoint.ports and endpoint.address.version == family
    }
    return tuple(sorted(found, key=lambda backend: (int(backend.ip), backend.port)))
