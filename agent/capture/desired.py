"""What the kernel's maps should hold, computed from a snapshot. Pure: no kernel, no files.

A `Basis` answers for single entries, so that a change costs what it changes (see `change`),
and for all of them as a `KernelState`. `reconcile` makes the maps equal to one; `meshnode bpf diff`
compares them. The pods map is the exception: `enrolment` adds and removes its entries in step with
listeners and links, `reconcile` only refreshes the values of those that exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True, kw_only=True)
class Basis:
    """All that the maps of one node are computed from.

    Attributes:
        local: netns cookies of the pods that are enrolled here (or about to be). One that the
            snapshot no longer knows is left out.
        numbering: must name everything that is in the snapshot (`number_snapshot`).
        extra: workloads beside the snapshot's, of which addresses are captured too.
    """

    snapshot: MeshSnapshot
    local: Mapping[WorkloadUid, int]
    policy: KernelPolicy
    numbering: Numbering
    agent: AgentCgroup
    extra: Sequence[Workload] = ()

    @cached_property
    def known(self) -> Mapping[WorkloadUid, int]:
        """`local` without what the snapshot forgot."""
        return {uid: c for uid, c in self.local.items() if uid in self.snapshot.workloads}

    @cached_property
    def pods(self) -> Mapping[int, PodEntry]:
        """Content of `mn_enrolled`."""
        workloads = self.snapshot.workloads
        return {
            cookie: _pod_entry(workloads[uid], self.policy, self.numbering)
            for uid, cookie in self.known.items()
        }

    @cached_property
    def exclusions(self) -> frozenset[ExclusionEntry]:
        """Keys of `mn_exclude`."""
        workloads = self.snapshot.workloads
        return frozenset(
            entry
            for uid, cookie in self.known.items()
            for entry in _exclusions(cookie, workloads[uid].exclusions)
        )

    @cached_property
    def excluded_nets(self) -> frozenset[ExcludedNet]:
        """Keys of `mn_exclude_net`."""
        workloads = self.snapshot.workloads
        return frozenset(
            ExcludedNet(cookie, network)
            for uid, cookie in self.known.items()
            for network in workloads[uid].exclusions.outbound_cidrs
        )

    @property
    def probes(self) -> frozenset[IPAddress]:
        """Keys of `mn_probe`."""
        return frozenset(self.snapshot.settings.probe_sources)

    @property
    def config(self) -> ConfigEntry:
        """The entry of `mn_config`."""
        encrypt = self.snapshot.settings.same_node is SameNode.ENCRYPT
        return ConfigEntry(agent=self.agent, flags=ConfigFlag.ENCRYPT if encrypt else ConfigFlag(0))

    @cached_property
    def _extra_by_address(self) -> Mapping[IPAddress, Workload]:
        return {address: item for item in self.extra for address in item.addresses}

    def addresses(self) -> Iterator[IPAddress]:
        """Keys of `mn_workload`."""
        yield from self.snapshot.by_address
        yield from (a for a in self._extra_by_address if a not in self.snapshot.by_address)

    def workload_at(self, address: IPAddress) -> WorkloadEntry | None:
        """The entry of `mn_workload` for an address."""
        workload = self.snapshot.by_address.get(address) or self._extra_by_address.get(address)
        if workload is None:
            return None
        cookie = self.known.get(workload.uid, 0)
        return _workload_entry(workload, cookie, self.policy, self.numbering)

    def services_of(
        self, services: Iterable[Service]
    ) -> Iterator[tuple[SocketAddress, ServiceEntry]]:
        """Entries of `mn_service` for some services."""
        for service in services:
            yield from _service_entries(service, self.numbering)

    def state(self) -> KernelState:
        """The content of all maps."""
        return KernelState(
            config=self.config,
            pods=self.pods,
            workloads=_Workloads(self),
            services=dict(self.services_of(self.snapshot.services.values())),
            verdicts=self.policy.verdicts,
            exclusions=self.exclusions,
            excluded_nets=self.excluded_nets,
            probes=self.probes,
        )


class _Workloads(Mapping[IPAddress, WorkloadEntry]):
    """`KernelState.workloads`, computed when asked: there may be 100,000."""

    def __init__(self, basis: Basis) -> None:
        self._basis = basis

    def __getitem__(self, address: IPAddress) -> WorkloadEntry:
        entry = self._basis.workload_at(address)
        if entry is None:
            raise KeyError(address)
        return entry

    def __iter__(self) -> Iterator[IPAddress]:
        return self._basis.addresses()

    def __len__(self) -> int:
        return sum(1 for _ in self._basis.addresses())


def number_snapshot(
    snapshot: MeshSnapshot, previous: Numbering, extra: Sequence[Workload] = ()
) -> Numbering:
    """Numbers for everything in the snapshot, keeping those given before."""
    ports = (key for service in snapshot.services.values() for key in port_keys(service))
    return previous.extended((*snapshot.workloads, *(item.uid for item in extra)), ports)


def port_keys(service: Service) -> Iterator[ServicePortKey]:
    """What of a service has numbers."""
    for vip in service.addresses:
        for port in service.ports:
            yield ServicePortKey(service.key, port.port, vip.version)


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


def _service_entries(
    service: Service, numbering: Numbering
) -> Iterator[tuple[SocketAddress, ServiceEntry]]:
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
