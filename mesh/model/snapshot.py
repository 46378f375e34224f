"""The mesh at one instant: immutable, numbered, indexed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from mesh.model.address import IPAddress
from mesh.model.authentication import RequestAuthentication
from mesh.model.codes import Code
from mesh.model.names import SYSTEM_NAMESPACE
from mesh.model.policy import AuthorizationPolicy, PeerAuthentication, PolicyKey
from mesh.model.provider import ExternalAuthorizer
from mesh.model.routing import GrantKey, ReferenceGrant, Route, RouteKey
from mesh.model.traffic import TrafficPolicy
from mesh.model.workload import WAYPOINT_LABEL, Service, ServiceKey, Workload, WorkloadUid


class SameNode(StrEnum):
    """How two enrolled workloads of one node talk."""

    DIRECT = "direct"
    ENCRYPT = "encrypt"


class PathNormalization(StrEnum):
    """What is done to a path before policy and routes see it (names and steps of Istio's)."""

    NONE = "NONE"
    BASE = "BASE"
    """Decode unreserved characters, turn `\\` to `/`, remove dot segments (RFC 3986 §6.2.2)."""
    MERGE_SLASHES = "MERGE_SLASHES"
    """BASE, and runs of slashes become one."""
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"
    """Decode %2F and %5C first, then MERGE_SLASHES."""


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Mesh-wide settings (the `MeshConfig` object, or defaults)."""

    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = SYSTEM_NAMESPACE
    cluster: str = "Kubernetes"
    same_node: SameNode = SameNode.DIRECT
    probe_sources: tuple[IPAddress, ...] = ()
    providers: tuple[ExternalAuthorizer, ...] = ()
    path_normalization: PathNormalization = PathNormalization.BASE


class Severity(StrEnum):
    """How bad a problem with an object is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong with an object or a file; shown by `meshnode status` until it is mended.

    Attributes:
        where: `file:line` or, on Kubernetes, `kind namespace/name`.
        subject: kind and name of the object, empty for a file that does not parse.
        message: what is wrong and what to do.
        code: of objects that were read; None for what a source or the kernel says.
    """

    where: str
    subject: str
    message: str
    severity: Severity = Severity.ERROR
    code: Code | None = None


@dataclass(frozen=True, kw_only=True)
class MeshSnapshot:
    """Everything the data plane decides on. Built by `mesh.state`, never mutated."""

    revision: int
    settings: MeshSettings = MeshSettings()
    workloads: Mapping[WorkloadUid, Workload] = field(default_factory=dict)
    services: Mapping[ServiceKey, Service] = field(default_factory=dict)
    policies: Mapping[PolicyKey, AuthorizationPolicy] = field(default_factory=dict)
    peer_authentications: Mapping[PolicyKey, PeerAuthentication] = field(default_factory=dict)
    request_authentications: Mapping[PolicyKey, RequestAuthentication] = field(default_factory=dict)
    routes: Mapping[RouteKey, Route] = field(default_factory=dict)
    grants: Mapping[GrantKey, ReferenceGrant] = field(default_factory=dict)
    traffic_policies: Mapping[PolicyKey, TrafficPolicy] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @cached_property
    def by_address(self) -> Mapping[IPAddress, Workload]:
        """Workload of each address; host-network workloads share theirs and are left out."""
        return {
            address: workload
            for workload in self.workloads.values()
            if not workload.host_network
            for address in workload.addresses
        }

    @cached_property
    def by_vip(self) -> Mapping[IPAddress, Service]:
        """Service of each virtual address."""
        return {vip: service for service in self.services.values() for vip in service.addresses}

    @cached_property
    def waypoint_workloads(self) -> Mapping[str, tuple[Workload, ...]]:
        """The pods of each waypoint (`<namespace>/<name>`), whether ready or not."""
        found: dict[str, list[Workload]] = {}
        for workload in self.workloads.values():
            name = workload.labels.get(WAYPOINT_LABEL)
            if name:
                found.setdefault(f"{workload.namespace}/{name}", []).append(workload)
        return {name: tuple(workloads) for name, workloads in found.items()}

    @cached_property
    def known_locals(self) -> dict[str, Sequence[Workload]]:
        """What `local_workloads` has answered, by node."""
        return {}

    def local_workloads(self, node: str) -> Sequence[Workload]:
        """Enrolled workloads of a node."""
        known = self.known_locals.get(node)
        if known is None:
            known = [w for w in self.workloads.values() if w.is_local(node)]
            self.known_locals[node] = known
        return known
