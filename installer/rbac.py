"""Who may do what: the agents read the mesh, the controller checks tokens besides.

Nobody gets `*`, nobody gets Secrets, nobody may write what it only reads. A test compares these
rules with the requests that the code really makes.
"""

from __future__ import annotations

from installer.parts import AGENT, CONTROLLER
from installer.values import DEFAULT_NAMESPACE, Manifest
from mesh.sources.kubernetes.resources import RESOURCES

NAMESPACE = DEFAULT_NAMESPACE
_LABELS = {"app.kubernetes.io/part-of": "meshnode"}
_RBAC = "rbac.authorization.k8s.io"


def manifests(namespace: str = NAMESPACE) -> list[Manifest]:
    """Accounts, roles and bindings of agents and controller."""
    reading = _read_rules()
    reviews: Manifest = {
        "apiGroups": ["authentication.k8s.io"],
        "resources": ["tokenreviews"],
        "verbs": ["create"],
    }
    agents: Manifest = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    return [
        _account(AGENT, namespace),
        _account(CONTROLLER, namespace),
        _cluster_role(AGENT, reading),
        _cluster_role(CONTROLLER, [*reading, reviews]),
        _cluster_binding(AGENT, namespace),
        _cluster_binding(CONTROLLER, namespace),
        # The pods of agents, to tell which node a token speaks for.
        {
            **_object("Role", CONTROLLER, namespace),
            "rules": [agents],
        },
        {
            **_object("RoleBinding", CONTROLLER, namespace),
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": CONTROLLER},
            "subjects": [_subject(CONTROLLER, namespace)],
        },
    ]


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


def _subject(name: str, namespace: str) -> Manifest:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}
