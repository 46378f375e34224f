"""The objects a lab shows to its agents, as YAML files of one directory.

The builders fill in what every object needs; a test spells only what it is about.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, Union

import yaml

Json: TypeAlias = Union[bool, int, float, str, Sequence["Json"], Mapping[str, "Json"], None]  # noqa: UP007 - a string has no `|` at run time
KubeObject: TypeAlias = Mapping[str, Json]

DATAPLANE_LABEL = "meshnode.io/dataplane"
NETNS_ANNOTATION = "meshnode.io/netns"
POLICY_GROUP = "meshnode.io/v1alpha1"


class ObjectDirectory:
    """A directory of YAML, written so that a watcher never sees half a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def apply(self, name: str, content: str | KubeObject | Sequence[KubeObject]) -> Path:
        """Write `NAME.yaml` from text, one object or several; replaces an earlier one."""
        if isinstance(content, str):
            text = content
        else:
            documents = [content] if isinstance(content, Mapping) else list(content)
            text = yaml.safe_dump_all(documents, sort_keys=False)
        target = self.path / f"{name}.yaml"
        # Not *.yaml: a watcher that lists the directory in between must not read it.
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text)
        os.replace(temporary, target)
        return target

    def has(self, name: str) -> bool:
        """Whether there is a `NAME.yaml`."""
        return (self.path / f"{name}.yaml").exists()

    def delete(self, name: str) -> None:
        """Remove `NAME.yaml`; nothing happens if it is not there."""
        (self.path / f"{name}.yaml").unlink(missing_ok=True)


def kube_object(
    api_version: str,
    kind: str,
    name: str,
    *,
    namespace: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **rest: Json,
) -> KubeObject:
    """Any object: metadata from the arguments, the other fields as given."""
    metadata: dict[str, Json] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def namespace_object(name: str, *, enrolled: bool) -> KubeObject:
    """A Namespace, with or without the label that enrols its pods."""
    labels = {DATAPLANE_LABEL: "enabled"} if enrolled else {}
    return kube_object("v1", "Namespace", name, labels=labels)


def service_account_object(namespace: str, name: str) -> KubeObject:
    return kube_object("v1", "ServiceAccount", name, namespace=namespace)


def pod_object(
    namespace: str,
    name: str,
    *,
    service_account: str,
    node: str,
    addresses: Sequence[str],
    netns: str,
    labels: Mapping[str, str] | None = None,
) -> KubeObject:
    """A running Pod whose network namespace is the file `netns`."""
    return kube_object(
        "v1",
        "Pod",
        name,
        namespace=namespace,
        labels=labels,
        annotations={NETNS_ANNOTATION: netns},
        spec={"nodeName": node, "serviceAccountName": service_account},
        status={
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    )


def service_object(
    namespace: str,
    name: str,
    *,
    cluster_ips: Sequence[str],
    port: int,
    selector: Mapping[str, str],
    target_port: int | None = None,
) -> KubeObject:
    """A Service of one TCP port over the pods that `selector` names."""
    return kube_object(
        "v1",
        "Service",
        name,
        namespace=namespace,
        spec={
            "clusterIP": cluster_ips[0],
            "clusterIPs": list(cluster_ips),
            "selector": dict(selector),
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": port, "targetPort": target_port or port}
            ],
        },
    )


def endpoint_slice_object(
    namespace: str, service: str, *, family: str, addresses: Sequence[str], port: int
) -> KubeObject:
    """An EndpointSlice of a Service; `family` is IPv4 or IPv6."""
    return kube_object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        f"{service}-{family.lower()}",
        namespace=namespace,
        labels={"kubernetes.io/service-name": service},
        addressType=family,
        endpoints=[
            {"addresses": [address], "conditions": {"ready": True}} for address in addresses
        ],
        ports=[{"name": "tcp", "protocol": "TCP", "port": port}],
    )


def authorization_policy(
    namespace: str,
    name: str,
    *,
    action: str = "ALLOW",
    selector: Mapping[str, str] | None = None,
    rules: Sequence[Json] = (),
) -> KubeObject:
    """An AuthorizationPolicy; no selector = the whole namespace."""
    spec: dict[str, Json] = {"action": action, "rules": list(rules)}
    if selector:
        spec["selector"] = {"matchLabels": dict(selector)}
    return kube_object(POLICY_GROUP, "AuthorizationPolicy", name, namespace=namespace, spec=spec)


def peer_authentication(
    namespace: str, name: str, *, mode: str, selector: Mapping[str, str] | None = None
) -> KubeObject:
    """A PeerAuthentication; `mode` is STRICT, PERMISSIVE or DISABLE."""
    spec: dict[str, Json] = {"mtls": {"mode": mode}}
    if selector:
        spec["selector"] = {"matchLabels": dict(selector)}
    return kube_object(POLICY_GROUP, "PeerAuthentication", name, namespace=namespace, spec=spec)
