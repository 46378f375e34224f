"""What is installed: objects of ours in a cluster, and how they differ from what is rendered."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from installer.parts import CONTROLLER, INSTALL_RECORD, LABELS, MANAGED_BY, PART_OF
from installer.settings import Json, read_values
from installer.text import of_tuples, to_yaml
from mesh.errors import ConfigError
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import collection_path
from mesh.sources.kubernetes.transport import KubeApi

Live = Mapping[str, object]

_RBAC = "rbac.authorization.k8s.io/v1"
_OPERATOR = "monitoring.coreos.com/v1"
PLURALS: Mapping[tuple[str, str], str] = {
    ("apps/v1", "DaemonSet"): "daemonsets",
    ("apps/v1", "Deployment"): "deployments",
    ("v1", "Service"): "services",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networkpolicies",
    ("gateway.networking.k8s.io/v1", "GatewayClass"): "gatewayclasses",
    ("scheduling.k8s.io/v1", "PriorityClass"): "priorityclasses",
    (_OPERATOR, "PodMonitor"): "podmonitors",
    (_OPERATOR, "PrometheusRule"): "prometheusrules",
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "ServiceAccount"): "serviceaccounts",
    (_RBAC, "RoleBinding"): "rolebindings",
    (_RBAC, "Role"): "roles",
    (_RBAC, "ClusterRoleBinding"): "clusterrolebindings",
    (_RBAC, "ClusterRole"): "clusterroles",
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): "customresourcedefinitions",
    ("v1", "Namespace"): "namespaces",
}
"""Every kind that is installed, in the order in which it is removed."""
_CLUSTER_WIDE = frozenset(
    {
        "GatewayClass",
        "PriorityClass",
        "ClusterRoleBinding",
        "ClusterRole",
        "CustomResourceDefinition",
        "Namespace",
    }
)


MADE_PLURALS: Mapping[tuple[str, str], str] = {
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"): (
        "validatingwebhookconfigurations"
    ),
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "horizontalpodautoscalers",
    ("apps/v1", "Deployment"): "deployments",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    ("v1", "Service"): "services",
    ("v1", "ServiceAccount"): "serviceaccounts",
    ("v1", "ConfigMap"): "configmaps",
}
"""What the controller makes, in any namespace, in the order in which it is removed."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """One object. `str` is how people name it."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {where}{self.name}"

    @property
    def path(self) -> str:
        kind = (self.api_version, self.kind)
        plural = PLURALS.get(kind) or MADE_PLURALS[kind]
        return f"{collection_path(self.api_version, plural, self.namespace)}/{self.name}"


def key_of(manifest: Live) -> Key:
    """Which object a manifest is about."""
    metadata = _mapping(manifest.get("metadata"))
    return Key(
        str(manifest.get("apiVersion", "")),
        str(manifest.get("kind", "")),
        str(metadata.get("namespace", "")),
        str(metadata.get("name", "")),
    )


async def find_ours(api: KubeApi, namespace: str) -> list[Live]:
    """Everything under our label, of the kinds that we install. Raises `KubeError`."""
    found: list[Live] = []
    for (version, kind), plural in PLURALS.items():
        path = collection_path(version, plural, "" if kind in _CLUSTER_WIDE else namespace)
        items = await _labelled(api, path, PART_OF, LABELS[PART_OF])
        found += ({**item, "apiVersion": version, "kind": kind} for item in items)
    return found


async def find_made(api: KubeApi) -> list[Live]:
    """Everything that the controller made, in all namespaces. Raises `KubeError`."""
    found: list[Live] = []
    for (version, kind), plural in MADE_PLURALS.items():
        items = await _labelled(api, collection_path(version, plural), MANAGED_BY, CONTROLLER)
        found += ({**item, "apiVersion": version, "kind": kind} for item in items)
    return found


async def _labelled(api: KubeApi, path: str, label: str, value: str) -> list[Live]:
    """Objects with a label; none of a kind that this cluster does not know."""
    try:
        body = await api.request("GET", path, query={"labelSelector": f"{label}={value}"})
    except KubeError as error:
        if error.is_missing:
            return []
        raise
    items = _mapping(json.loads(body)).get("items")
    return [
        item
        for item in (items if isinstance(items, list) else ())
        if _mapping(_mapping(item.get("metadata")).get("labels")).get(label) == value
    ]


def recorded_values(manifests: Iterable[Live], where: str) -> dict[str, Json]:
    """The values of an installation. Raises `ConfigError` where none is recorded."""
    for manifest in manifests:
        if key_of(manifest).kind == "ConfigMap" and key_of(manifest).name == INSTALL_RECORD:
            text = _mapping(manifest.get("data")).get("values.json")
            return read_values(str(text), f"{where}: ConfigMap {INSTALL_RECORD}")
    raise ConfigError(
        f"{where}: there is no ConfigMap {INSTALL_RECORD}, so nothing was installed there; "
        "run `meshnode install | kubectl apply -f -`, or name the namespace with --namespace"
    )


def differences(live: Iterable[Live], wanted: Sequence[Live]) -> str:
    """A unified diff from what is there to what is rendered; empty if nothing would change.

    Of an object only what is rendered is compared: the server adds defaults and its own notes.
    """
    there = {key_of(one): one for one in live}
    parts: list[str] = []
    for manifest in wanted:
        key = key_of(manifest)
        old = there.pop(key, None)
        before = "" if old is None else to_yaml([_mapping(_projected(old, manifest))])
        parts += _diff(key, before, to_yaml([_mapping(of_tuples(manifest))]))
    for key, gone in sorted(there.items()):
        parts += [f"# {key} is not part of it any more: kubectl delete it by hand"]
        parts += _diff(key, to_yaml([{**gone, "metadata": {"name": key.name}}]), "")
    return "\n".join(parts)


def _diff(key: Key, before: str, after: str) -> list[str]:
    names = (f"installed: {key}", f"rendered: {key}")
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")
    return list(lines)


def _projected(live: object, wanted: object) -> object:
    """The part of a live object that a manifest speaks of, in the manifest's order."""
    if _is_mapping(live) and _is_mapping(wanted):
        return {
            name: _projected(live[name], item) if name in live else item
            for name, item in wanted.items()
            # A server leaves out what is empty.
            if name in live or item in ([], {}, ())
        }
    if isinstance(live, list) and isinstance(wanted, list) and len(live) == len(wanted):
        return [_projected(a, b) for a, b in zip(live, wanted, strict=True)]
    return live


def _is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping)


def _mapping(value: object) -> Mapping[str, object]:
    return value if _is_mapping(value) else {}
