"""Who may do what: agents and waypoints read the mesh, the controller runs it.

Nobody gets `*`; of Secrets only the controller gets the one with the CA's keys, in its own
namespace; nobody may write what it only reads. A test compares these rules with the requests that
the code really makes.
"""

from __future__ import annotations

from installer.parts import AGENT, CA_ROOT, CA_SECRET, CONTROLLER
from installer.values import Manifest
from mesh.model.names import SYSTEM_NAMESPACE
from mesh.run_files import OPERATOR
from mesh.sources.kubernetes.resources import RESOURCES

NAMESPACE = SYSTEM_NAMESPACE
_LABELS = {"app.kubernetes.io/part-of": "meshnode"}
_RBAC = "rbac.authorization.k8s.io"
_WEBHOOKS = "validatingwebhookconfigurations"
WAYPOINT = "meshnode-waypoint"
VIEWER = "meshnode-viewer"
"""For people: `meshnode stat`, `tap`, `dashboard` and the like from elsewhere. Nobody is bound to
it. Whoever may forward a port of a pod reaches all of its ports, so it is for RoleBindings in the
namespace of the agents, and in those of waypoints. Whoever shall also change log levels from afar
is bound to the Role OPERATOR too: its account has no rights, and no pod runs as it."""


def manifests(namespace: str = NAMESPACE) -> list[Manifest]:
    """Accounts, roles and bindings of agents and controller."""
    reading = _read_rules()
    return [
        _account(AGENT, namespace),
        _account(CONTROLLER, namespace),
        # What a pod's state in the mesh is, is an annotation; its door is the one of the status,
        # which opens nothing of what the pod runs.
        _cluster_role(AGENT, [*reading, _rule("", ["pods/status"], ["patch"])]),
        _cluster_role(WAYPOINT, reading),
        _cluster_role(CONTROLLER, [*reading, *_controller_rules()]),
        _cluster_role(VIEWER, _viewer_rules()),
        {**_account(OPERATOR, namespace), "automountServiceAccountToken": False},
        {**_object("Role", OPERATOR, namespace), "rules": [_token_rule()]},
        _cluster_binding(AGENT, namespace),
        _cluster_binding(CONTROLLER, namespace),
        _waypoint_binding(),
        {
            **_object("Role", CONTROLLER, namespace),
            "rules": [
                _rule("coordination.k8s.io", ["leases"], ["create", "get", "update"]),
                # Creation cannot be limited to a name.
                _rule("", ["secrets"], ["create"]),
                {**_rule("", ["secrets"], ["get", "update"]), "resourceNames": [CA_SECRET]},
            ],
        },
        {
            **_object("RoleBinding", CONTROLLER, namespace),
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": CONTROLLER},
            "subjects": [_subject(CONTROLLER, namespace)],
        },
    ]


def _viewer_rules() -> list[Manifest]:
    """Find the pods, and forward a port. Which of the verbs is asked for depends on the server's
    version: a WebSocket begins with GET, and newer ones want `create` for it too."""
    return [
        _rule("", ["pods", "services"], ["get", "list"]),
        _rule("", ["pods/portforward"], ["create", "get"]),
        # Bound in Prometheus' namespace: history.
        _rule("", ["services/proxy"], ["get"]),
    ]


def _token_rule() -> Manifest:
    """Make a token of the operator's account, which is the proof that an agent asks for."""
    return {**_rule("", ["serviceaccounts/token"], ["create"]), "resourceNames": [OPERATOR]}


def _controller_rules() -> list[Manifest]:
    """What the controller does besides reading."""
    gateway, ours = "gateway.networking.k8s.io", "meshnode.io"
    routes = ["httproutes", "grpcroutes", "tlsroutes", "tcproutes"]
    policies = [
        "authorizationpolicies",
        "peerauthentications",
        "requestauthentications",
        "trafficpolicies",
    ]
    classes = ["gatewayclasses", "gateways"]
    waypoint = ["create", "delete", "get", "patch"]
    return [
        _rule("authentication.k8s.io", ["tokenreviews"], ["create"]),
        # Whose token it is, and where that pod runs.
        _rule("", ["pods"], ["get"]),
        _rule(gateway, classes, ["get", "list", "watch"]),
        _rule(gateway, routes, ["get"]),
        _rule(gateway, [f"{plural}/status" for plural in (*classes, *routes)], ["update"]),
        _rule(ours, policies, ["get"]),
        _rule(ours, [f"{plural}/status" for plural in policies], ["update"]),
        _rule("security.istio.io", policies[:3], ["get"]),
        _rule("security.istio.io", [f"{plural}/status" for plural in policies[:3]], ["update"]),
        # The roots, in every namespace; to create cannot be limited to a name.
        _rule("", ["configmaps"], ["create"]),
        {**_rule("", ["configmaps"], ["patch"]), "resourceNames": [CA_ROOT]},
        _rule("", ["serviceaccounts", "services"], waypoint),
        _rule("apps", ["deployments"], [*waypoint, "list"]),
        _rule("policy", ["poddisruptionbudgets"], waypoint),
        _rule("autoscaling", ["horizontalpodautoscalers"], waypoint),
        {**_rule(_RBAC, ["clusterrolebindings"], ["patch"]), "resourceNames": [WAYPOINT]},
        {**_rule(_RBAC, ["clusterroles"], ["bind"]), "resourceNames": [WAYPOINT]},
        _rule("admissionregistration.k8s.io", [_WEBHOOKS], ["create"]),
        {
            **_rule("admissionregistration.k8s.io", [_WEBHOOKS], ["patch"]),
            "resourceNames": ["meshnode"],
        },
    ]


def _rule(group: str, resources: list[str], verbs: list[str]) -> Manifest:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _read_rules() -> list[Manifest]:
    """One rule for each group; a kind that is not installed costs nothing."""
    groups: dict[str, list[str]] = {}
    for resource in RESOURCES:
        groups.setdefault(resource.group, []).append(resource.plural)
    return [
        {"apiGroups": [group], "resources": sorted(plurals), "verbs": ["list", "watch"]}
        for group, plurals in groups.items()
    ]


def _object(kind: str, name: str, namespace: str = "") -> Manifest:
    metadata: Manifest = {"name": name, "labels": dict(_LABELS)}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": metadata}


def _account(name: str, namespace: str) -> Manifest:
    made = _object("ServiceAccount", name, namespace)
    return {**made, "apiVersion": "v1"}


def _cluster_role(name: str, rules: list[Manifest]) -> Manifest:
    return {**_object("ClusterRole", name), "rules": rules}


def _cluster_binding(name: str, namespace: str) -> Manifest:
    return {
        **_object("ClusterRoleBinding", name),
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
        "subjects": [_subject(name, namespace)],
    }


def _waypoint_binding() -> Manifest:
    """Without subjects: the controller fills in the accounts of waypoints.

    An empty list would empty it again whenever the manifests are applied.
    """
    return {
        **_object("ClusterRoleBinding", WAYPOINT),
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": WAYPOINT},
    }


def _subject(name: str, namespace: str) -> Manifest:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}
