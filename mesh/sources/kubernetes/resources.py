"""Which kinds are read from the API server, and under which paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind of one group.

    Attributes:
        group: empty for the core group.
        versions: best first; the first one that the server has is read.
        plural: its name in paths.
        supplier: who installs the kind; empty for what every cluster has. A kind of Istio's is
            read where it is there and not missed where it is not.
    """

    kind: str
    group: str = ""
    versions: Sequence[str] = ("v1",)
    plural: str
    supplier: str = ""
    is_missed: bool = True

    @property
    def api_versions(self) -> list[str]:
        """`group/version`, best first."""
        return [f"{self.group}/{v}" if self.group else v for v in self.versions]

    @property
    def name(self) -> str:
        """`plural.group`, as CustomResourceDefinitions are named."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def collection_path(api_version: str, plural: str, namespace: str = "") -> str:
    """Path of all objects of a kind, or of those of a namespace."""
    root = "apis" if "/" in api_version else "api"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/{root}/{api_version}{scope}/{plural}"


_GATEWAY = "gateway.networking.k8s.io"
_OURS = "meshnode.io"
_ISTIO = "security.istio.io"
_INSTALL = "`kubectl apply -f installer/crds` adds it"
_GATEWAY_API = "the Gateway API's standard channel has it"


def _ours(kind: str, plural: str) -> Resource:
    return Resource(
        kind=kind, group=_OURS, versions=("v1alpha1",), plural=plural, supplier=_INSTALL
    )


def _istio(kind: str, plural: str) -> Resource:
    return Resource(
        kind=kind,
        group=_ISTIO,
        versions=("v1", "v1beta1"),
        plural=plural,
        supplier="Istio",
        is_missed=False,
    )


def _gateway(kind: str, plural: str, *versions: str, is_missed: bool = True) -> Resource:
    return Resource(
        kind=kind,
        group=_GATEWAY,
        versions=versions,
        plural=plural,
        supplier=_GATEWAY_API,
        is_missed=is_missed,
    )


RESOURCES: Sequence[Resource] = (
    Resource(kind="Namespace", plural="namespaces"),
    Resource(kind="ServiceAccount", plural="serviceaccounts"),
    Resource(kind="Pod", plural="pods"),
    Resource(kind="Service", plural="services"),
    Resource(kind="EndpointSlice", group="discovery.k8s.io", plural="endpointslices"),
    _ours("MeshConfig", "meshconfigs"),
    _ours("Workload", "workloads"),
    # Where both groups have an object of one name, the reducer takes the first: ours.
    _ours("AuthorizationPolicy", "authorizationpolicies"),
    _istio("AuthorizationPolicy", "authorizationpolicies"),
    _ours("PeerAuthentication", "peerauthentications"),
    _istio("PeerAuthentication", "peerauthentications"),
    _ours("RequestAuthentication", "requestauthentications"),
    _istio("RequestAuthentication", "requestauthentications"),
    _ours("TrafficPolicy", "trafficpolicies"),
    _gateway("Gateway", "gateways", "v1", "v1beta1"),
    _gateway("HTTPRoute", "httproutes", "v1", "v1beta1"),
    _gateway("GRPCRoute", "grpcroutes", "v1"),
    # Until version 1.5 these two are in the experimental channel only.
    _gateway("TLSRoute", "tlsroutes", "v1", "v1alpha3", "v1alpha2", is_missed=False),
    _gateway("TCPRoute", "tcproutes", "v1", "v1alpha2", is_missed=False),
    _gateway("ReferenceGrant", "referencegrants", "v1", "v1beta1"),
)
"""Everything a mesh is made of. `mesh.sources.decode.KINDS` reads each."""

CONTROLLER_RESOURCES: Sequence[Resource] = (
    *RESOURCES,
    _gateway("GatewayClass", "gatewayclasses", "v1", "v1beta1"),
)
"""What the controller watches besides: whether waypoints are its own to make."""
