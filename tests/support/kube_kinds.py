"""The kinds that the API stand-in serves: plural and group, kind, version."""

from __future__ import annotations

CORE = (
    ("namespaces", "Namespace", "v1"),
    ("serviceaccounts", "ServiceAccount", "v1"),
    ("pods", "Pod", "v1"),
    ("services", "Service", "v1"),
    ("configmaps", "ConfigMap", "v1"),
    ("endpointslices.discovery.k8s.io", "EndpointSlice", "discovery.k8s.io/v1"),
    ("leases.coordination.k8s.io", "Lease", "coordination.k8s.io/v1"),
    ("secrets", "Secret", "v1"),
    ("events.events.k8s.io", "Event", "events.k8s.io/v1"),
    ("deployments.apps", "Deployment", "apps/v1"),
    ("poddisruptionbudgets.policy", "PodDisruptionBudget", "policy/v1"),
    (
        "clusterrolebindings.rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        "rbac.authorization.k8s.io/v1",
    ),
    ("horizontalpodautoscalers.autoscaling", "HorizontalPodAutoscaler", "autoscaling/v2"),
)
GATEWAY_API = tuple(
    (f"{plural}.gateway.networking.k8s.io", kind, "gateway.networking.k8s.io/v1")
    for plural, kind in (
        ("gatewayclasses", "GatewayClass"),
        ("gateways", "Gateway"),
        ("httproutes", "HTTPRoute"),
        ("grpcroutes", "GRPCRoute"),
        ("tlsroutes", "TLSRoute"),
        ("tcproutes", "TCPRoute"),
        ("referencegrants", "ReferenceGrant"),
    )
)
OURS = tuple(
    (f"{plural}.meshnode.io", kind, "meshnode.io/v1alpha1")
    for plural, kind in (
        ("meshconfigs", "MeshConfig"),
        ("workloads", "Workload"),
        ("authorizationpolicies", "AuthorizationPolicy"),
        ("peerauthentications", "PeerAuthentication"),
        ("requestauthentications", "RequestAuthentication"),
        ("trafficpolicies", "TrafficPolicy"),
    )
)
ISTIO = tuple(
    (f"{plural}.security.istio.io", kind, "security.istio.io/v1")
    for plural, kind in (
        ("authorizationpolicies", "AuthorizationPolicy"),
        ("peerauthentications", "PeerAuthentication"),
        ("requestauthentications", "RequestAuthentication"),
    )
)
