"""What in a cluster would keep pods out of the mesh, unnoticed: found before and after install.

Each function takes what the API server or a node's files say and returns findings; `meshnode
check` shows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mesh.errors import MeshnodeError
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import collection_path
from mesh.sources.kubernetes.transport import KubeApi

HBONE_PORT = 15008
CILIUM_CONFIG = "cilium-config"
CILIUM_NAMESPACES = ("kube-system", "cilium", "cilium-system")

JsonObject: TypeAlias = "Mapping[str, object]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """One thing that is in the way.

    Attributes:
        name: what was looked at.
        detail: what was found.
        hint: what to do.
        breaks: whether pods leave the mesh or lose traffic; False where it merely may.
    """

    name: str
    detail: str
    hint: str
    breaks: bool = True


def cilium_conflicts(config: Mapping[str, str]) -> Iterator[Conflict]:
    """Judge the data of Cilium's ConfigMap."""
    if _is_on(config, "kube-proxy-replacement") or _is_on(config, "enable-socket-lb"):
        yield from _socket_lb(config)
    if _is_on(config, "cni-exclusive", default=True):
        yield Conflict(
            name="Cilium: cni.exclusive",
            detail="Cilium takes every other plugin out of the node's CNI configuration",
            hint="set cni.exclusive=false in Cilium's values; until then new pods start uncaptured",
        )
    if _is_on(config, "enable-bpf-masquerade"):
        yield Conflict(
            name="Cilium: bpf.masquerade",
            detail="packets between a node and its pods may get another source address",
            hint="set bpf.masquerade=false, or health probes of STRICT pods may be refused",
            breaks=False,
        )


def _socket_lb(config: Mapping[str, str]) -> Iterator[Conflict]:
    if _is_on(config, "bpf-lb-sock-hostns-only"):
        return
    yield Conflict(
        name="Cilium: socket load balancing",
        detail="a service's address becomes a pod's before the mesh sees it: policy of services "
        "and waypoints is passed by",
        hint="set socketLB.hostNamespaceOnly=true in Cilium's values",
    )


def _is_on(config: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    text = config.get(key, "").strip().lower()
    return default if not text else text in ("true", "strict", "partial", "probe")


def network_policy_conflicts(
    policies: Iterable[JsonObject], enrolled: frozenset[str]
) -> Iterator[Conflict]:
    """Judge NetworkPolicies: those that let connections in, but not to the mesh's port.

    Args:
        enrolled: namespaces with pods of the mesh.
    """
    for policy in policies:
        metadata, spec = _object(policy.get("metadata")), _object(policy.get("spec"))
        namespace = str(metadata.get("namespace", ""))
        rules = _objects(spec.get("ingress"))
        if namespace not in enrolled or not _restricts_ingress(spec) or not rules:
            continue  # without any rule nothing is meant to come in
        if not any(_lets_in(rule) for rule in rules):
            yield Conflict(
                name=f"NetworkPolicy {namespace}/{metadata.get('name', '')}",
                detail=f"it lets clients in, but not on TCP port {HBONE_PORT}, where the mesh's "
                "connections arrive",
                hint=f"add port {HBONE_PORT} to its ingress rules; ports of applications are the "
                "business of AuthorizationPolicy then",
            )


def _restricts_ingress(spec: JsonObject) -> bool:
    types = spec.get("policyTypes")
    return "Ingress" in types if isinstance(types, list) else True


def _lets_in(rule: JsonObject) -> bool:
    ports = _objects(rule.get("ports"))
    if not ports:
        return True
    return any(_covers(port) for port in ports)


def _covers(port: JsonObject) -> bool:
    if port.get("protocol", "TCP") != "TCP":
        return False
    low = port.get("port")
    if low is None:
        return True
    high = port.get("endPort", low)
    if not isinstance(low, int) or not isinstance(high, int):
        return False  # a named port: no container of the application is called as ours
    return low <= HBONE_PORT <= high


def cni_conflicts(files: Mapping[str, str], *, ours: str) -> Iterator[Conflict]:
    """Judge the files of a node's CNI directory: name to text.

    Args:
        ours: type of our plugin.
    """
    names = sorted(n for n in files if n.endswith((".conf", ".conflist", ".json")))
    if not names:
        yield Conflict(
            name="CNI configuration",
            detail="the node has none: its pods have no network yet",
            hint="wait for the network plugin; the agent chains ours as soon as there is one",
            breaks=False,
        )
        return
    types = _plugin_types(files[names[0]])
    if types is None:
        yield Conflict(
            name=f"CNI configuration {names[0]}",
            detail="it cannot be read",
            hint="mend it; the container runtime cannot use it either",
        )
    elif ours not in types:
        elsewhere = [n for n in names[1:] if ours in (_plugin_types(files[n]) or ())]
        where = f"; it is in {', '.join(elsewhere)}, which is not in use" if elsewhere else ""
        yield Conflict(
            name=f"CNI configuration {names[0]}",
            detail=f"our plugin is not chained{where}",
            hint="see whether another program rewrites the file (Cilium: cni.exclusive); the "
            "agent puts the plugin back every second",
        )
    elif types[-1] != ours:
        yield Conflict(
            name=f"CNI configuration {names[0]}",
            detail=f"{types[-1]} is chained after our plugin and may change the pod's network",
            hint="usually harmless; the canary of each pod says whether it was captured",
            breaks=False,
        )


def _plugin_types(text: str) -> Sequence[str] | None:
    try:
        tree = json.loads(text)
    except ValueError:
        return None
    if not isinstance(tree, dict):
        return None
    plugins = tree.get("plugins", [tree])
    if not isinstance(plugins, list) or not plugins:
        return None
    return [str(_object(plugin).get("type", "")) for plugin in plugins]


async def cluster_conflicts(api: KubeApi, enrolled: frozenset[str]) -> list[Conflict]:
    """Ask a cluster for everything above that it can tell. What may not be read is a finding."""
    found: list[Conflict] = []
    for namespace in CILIUM_NAMESPACES:
        path = f"{collection_path('v1', 'configmaps', namespace)}/{CILIUM_CONFIG}"
        try:
            data = _object(_object(json.loads(await api.request("GET", path))).get("data"))
        except KubeError as error:
            if not error.is_missing:
                found.append(_unread(f"ConfigMap {namespace}/{CILIUM_CONFIG}", error))
            continue
        found += cilium_conflicts({key: str(value) for key, value in data.items()})
    try:
        path = collection_path("networking.k8s.io/v1", "networkpolicies")
        body = _object(json.loads(await api.request("GET", path)))
        found += network_policy_conflicts(_objects(body.get("items")), enrolled)
    except KubeError as error:
        if not error.is_missing:
            found.append(_unread("NetworkPolicies", error))
    return found


def _unread(what: str, error: MeshnodeError) -> Conflict:
    return Conflict(
        name=what,
        detail=f"cannot be read: {error}",
        hint="run the check with an account that may read it",
        breaks=False,
    )


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> Sequence[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
