"""Workloads, services and endpoints: who is in the mesh and how it is reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from mesh.model.address import IPAddress, IPNetwork
from mesh.model.identity import SpiffeId

WorkloadUid = NewType("WorkloadUid", str)
"""`pod/<namespace>/<name>` or `workload/<namespace>/<name>`; unique in the mesh."""

ServiceKey = NewType("ServiceKey", str)
"""`<namespace>/<name>`."""


WAYPOINT_LABEL = "gateway.networking.k8s.io/gateway-name"
"""Pods of a waypoint carry it, with the name of their Gateway (Gateway API GEP-1762)."""


class WaypointFor(StrEnum):
    """Which traffic a waypoint takes: what is addressed to services, or to workloads."""

    SERVICE = "service"
    WORKLOAD = "workload"
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusions:
    """Outbound traffic of a workload that is never captured, and inbound ports left alone."""

    outbound_ports: frozenset[int] = frozenset()
    outbound_cidrs: tuple[IPNetwork, ...] = ()
    outbound_uids: frozenset[int] = frozenset()
    inbound_ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One addressable member of the mesh, normally a pod.

    Attributes:
        node: name of the node that runs it.
        enrolled: its label (or its namespace's) asks for the mesh; never true for host network.
        netns: path of its network namespace, where the source says so (standalone mode);
            None where the node finds it by itself (Kubernetes).
        app_name: name of the owning application (Deployment, or the `app` label): metric label
            `workload`; `canonical_service` and `canonical_revision` follow Istio's label rules.
        waypoint: `<namespace>/<name>` of the waypoint that traffic to it must pass, or None.
        egress_bytes_per_s: most that each of its connections sends; None = no limit.
        ready: only of a waypoint's own pods: whether it takes traffic. Readiness of others is
            their endpoints' matter.
    """

    uid: WorkloadUid
    name: str
    namespace: str
    service_account: str
    trust_domain: str
    node: str
    addresses: tuple[IPAddress, ...]
    enrolled: bool
    host_network: bool = False
    netns: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    app_name: str = "unknown"
    canonical_service: str = "unknown"
    canonical_revision: str = "latest"
    exclusions: Exclusions = Exclusions()
    waypoint: str | None = None
    egress_bytes_per_s: int | None = None
    ready: bool = True

    def is_local(self, node: str) -> bool:
        """Whether it is this node that takes it into the mesh."""
        return self.enrolled and self.node == node

    @property
    def identity(self) -> SpiffeId:
        """The SPIFFE ID of its service account."""
        return SpiffeId(
            trust_domain=self.trust_domain,
            namespace=self.namespace,
            service_account=self.service_account,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """One port of a service (Service.spec.ports[])."""

    port: int
    name: str = ""
    app_protocol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address able to serve a service.

    Attributes:
        workload: the workload behind the address; None for an address outside the mesh.
        ports: service port -> port on the address.
    """

    address: IPAddress
    workload: WorkloadUid | None
    ports: Mapping[int, int]
    ready: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A name with virtual addresses and ports over endpoints."""

    key: ServiceKey
    name: str
    namespace: str
    hostname: str
    addresses: tuple[IPAddress, ...]
    ports: tuple[ServicePort, ...]
    endpoints: tuple[Endpoint, ...] = ()
    waypoint: str | None = None
