"""Schemas of the objects a source delivers, and the set it delivers them in.

Kubernetes' own objects tolerate fields that we do not read; ours and Istio's refuse them, because
a misspelt field of a policy is a hole. A field that is null counts as absent, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from mesh.model.authentication import RequestAuthentication
from mesh.model.policy import AuthorizationPolicy, PeerAuthentication
from mesh.model.routing import ReferenceGrant, Route
from mesh.model.snapshot import PathNormalization, Problem
from mesh.model.traffic import TrafficPolicy


class Lenient(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of what Kubernetes owns: unknown fields are skipped."""


class Strict(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of what meshnode and Istio own: unknown fields are errors."""


class OwnerReference(Lenient, frozen=True, kw_only=True):
    """metadata.ownerReferences[]."""

    kind: str
    name: str
    controller: bool = False


class Metadata(Lenient, frozen=True, kw_only=True):
    """metadata of every object."""

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    creation_timestamp: str = ""
    generation: int = 0
    uid: str = ""
    owner_references: tuple[OwnerReference, ...] = ()


class NamespaceObject(Lenient, frozen=True, kw_only=True):
    """v1 Namespace."""

    metadata: Metadata


class ServiceAccountObject(Lenient, frozen=True, kw_only=True):
    """v1 ServiceAccount."""

    metadata: Metadata


class ContainerPort(Lenient, frozen=True, kw_only=True):
    """spec.containers[].ports[]."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(Lenient, frozen=True, kw_only=True):
    """spec.containers[]."""

    ports: tuple[ContainerPort, ...] = ()


class PodSpec(Lenient, frozen=True, kw_only=True):
    """Pod.spec."""

    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    containers: tuple[Container, ...] = ()


class PodIP(Lenient, frozen=True, kw_only=True):
    """status.podIPs[]."""

    ip: str


class Condition(Lenient, frozen=True, kw_only=True):
    """status.conditions[]."""

    type: str
    status: str


class PodStatus(Lenient, frozen=True, kw_only=True):
    """Pod.status."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")
    conditions: tuple[Condition, ...] = ()


class PodObject(Lenient, frozen=True, kw_only=True):
    """v1 Pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ServicePortSpec(Lenient, frozen=True, kw_only=True):
    """Service.spec.ports[]."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""
    target_port: int | str = 0


class ServiceSpec(Lenient, frozen=True, kw_only=True):
    """Service.spec."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    ports: tuple[ServicePortSpec, ...] = ()
    selector: Mapping[str, str] = {}


class ServiceObject(Lenient, frozen=True, kw_only=True):
    """v1 Service."""

    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()


class TargetObject(Lenient, frozen=True, kw_only=True):
    """endpoints[].targetRef."""

    kind: str = ""
    name: str = ""
    namespace: str = ""


class EndpointConditions(Lenient, frozen=True, kw_only=True):
    """endpoints[].conditions; absent means ready."""

    ready: bool = True


class SliceEndpoint(Lenient, frozen=True, kw_only=True):
    """EndpointSlice.endpoints[]."""

    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    target_ref: TargetObject | None = None


class SlicePort(Lenient, frozen=True, kw_only=True):
    """EndpointSlice.ports[]; `name` is that of the service port."""

    port: int = 0
    name: str = ""
    protocol: str = "TCP"


class EndpointSliceObject(Lenient, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: Metadata
    address_type: str = "IPv4"
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()


class WorkloadPort(Strict, frozen=True, kw_only=True):
    """Workload.spec.ports[]: a name for targetPort to point at."""

    name: str
    port: int


class WorkloadSpec(Strict, frozen=True, kw_only=True):
    """Workload.spec: a process without a pod.

    `netns` is the path of its network namespace on `node`.
    """

    addresses: tuple[str, ...]
    node: str = ""
    service_account: str = "default"
    netns: str = ""
    ports: tuple[WorkloadPort, ...] = ()


class WorkloadObject(Strict, frozen=True, kw_only=True):
    """meshnode.io/v1alpha1 Workload."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: WorkloadSpec
    status: object = None


class RequestBodyCheck(Strict, frozen=True, kw_only=True):
    """includeRequestBodyInCheck of an external authorizer."""

    max_request_bytes: int
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class ProviderTlsSpec(Strict, frozen=True, kw_only=True):
    """tls: how the authorizer proves who it is."""

    server_name: str = ""
    ca_certificates: str = ""


class ExternalAuthorizerSpec(Strict, frozen=True, kw_only=True):
    """envoyExtAuthzHttp; envoyExtAuthzGrpc takes its first half."""

    service: str
    port: int
    timeout: str | None = None
    fail_open: bool = False
    status_on_error: str = ""
    include_request_body_in_check: RequestBodyCheck | None = None
    path_prefix: str = ""
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: Mapping[str, str] = {}
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()
    tls: ProviderTlsSpec | None = None


class ExtensionProvider(Strict, frozen=True, kw_only=True):
    """spec.extensionProviders[] (Istio MeshConfig)."""

    name: str
    envoy_ext_authz_http: ExternalAuthorizerSpec | None = None
    envoy_ext_authz_grpc: ExternalAuthorizerSpec | None = None


class MeshConfigSpec(Strict, frozen=True, kw_only=True):
    """MeshConfig.spec; what is absent keeps its default."""

    trust_domain: str | None = None
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str | None = None
    cluster: str | None = None
    same_node: str | None = None
    probe_sources: tuple[str, ...] = ()
    extension_providers: tuple[ExtensionProvider, ...] = ()
    path_normalization: PathNormalization = PathNormalization.BASE


class MeshConfigObject(Strict, frozen=True, kw_only=True):
    """meshnode.io/v1alpha1 MeshConfig: one for the whole mesh."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: MeshConfigSpec = MeshConfigSpec()
    status: object = None


class RouteGroupKind(Lenient, frozen=True, kw_only=True):
    """spec.listeners[].allowedRoutes.kinds[]."""

    group: str = "gateway.networking.k8s.io"
    kind: str


class AllowedRoutes(Lenient, frozen=True, kw_only=True):
    """spec.listeners[].allowedRoutes."""

    kinds: tuple[RouteGroupKind, ...] = ()


class GatewayListener(Lenient, frozen=True, kw_only=True):
    """spec.listeners[]."""

    name: str
    port: int
    protocol: str
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(Lenient, frozen=True, kw_only=True):
    """Gateway.spec, as far as a waypoint has a use for it."""

    gateway_class_name: str
    listeners: tuple[GatewayListener, ...] = ()


class GatewayObject(Lenient, frozen=True, kw_only=True):
    """gateway.networking.k8s.io/v1 Gateway."""

    metadata: Metadata
    spec: GatewaySpec


class GatewayClassSpec(Lenient, frozen=True, kw_only=True):
    """GatewayClass.spec."""

    controller_name: str


class GatewayClassObject(Lenient, frozen=True, kw_only=True):
    """gateway.networking.k8s.io/v1 GatewayClass."""

    metadata: Metadata
    spec: GatewayClassSpec


Body = (
    NamespaceObject
    | ServiceAccountObject
    | PodObject
    | ServiceObject
    | EndpointSliceObject
    | WorkloadObject
    | MeshConfigObject
    | AuthorizationPolicy
    | PeerAuthentication
    | RequestAuthentication
    | GatewayObject
    | GatewayClassObject
    | Route
    | ReferenceGrant
    | TrafficPolicy
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceObject:
    """One valid object.

    Attributes:
        namespace: empty for objects without one.
        where: `file:line`, or `kind namespace/name` on Kubernetes.
    """

    kind: str
    namespace: str
    name: str
    where: str
    body: Body

    @property
    def subject(self) -> str:
        """Kind and name, as problems show it."""
        return (
            f"{self.kind} {self.namespace}/{self.name}"
            if self.namespace
            else (f"{self.kind} {self.name}")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSet:
    """Everything a source knows: valid objects, and what is wrong with the others."""

    objects: tuple[SourceObject, ...] = ()
    problems: tuple[Problem, ...] = ()
