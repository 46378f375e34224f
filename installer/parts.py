"""Pieces that several manifests share."""

from __future__ import annotations

from installer.values import NAMESPACE, Manifest, Values

AGENT = "meshnode-agent"
CONTROLLER = "meshnode-controller"
INSTALL_RECORD = "meshnode-install"
CA_SECRET = "meshnode-ca"
CA_ROOT = "meshnode-ca-root"
"""ConfigMap with the root of the CA's server, `root.pem`; the controller keeps it."""
CA_PORT = 15012
WEBHOOK_PORT = 15017
PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "app.kubernetes.io/managed-by"
"""With the controller's name: on all that it makes (waypoints, roots, its webhook)."""
LABELS = {PART_OF: "meshnode"}


def labels_of(name: str) -> dict[str, object]:
    """Labels of a workload, and what selects its pods."""
    return {"app.kubernetes.io/name": name, **LABELS}


def namespaced(api_version: str, kind: str, name: str, values: Values) -> Manifest:
    """The head of an object in our namespace."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": values.value(NAMESPACE), "labels": dict(LABELS)},
    }


def cluster_wide(api_version: str, kind: str, name: str) -> Manifest:
    """The head of an object without a namespace."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "labels": dict(LABELS)},
    }


def image(values: Values) -> Manifest:
    """What every container says of its image."""
    return {
        "image": values.text("{image.repository}:{image.tag}"),
        "imagePullPolicy": values.value("image.pullPolicy"),
    }


def http_probe(path: str, port: object, **limits: int) -> Manifest:
    """A probe by HTTP."""
    return {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5, **limits}


def field_of_pod(variable: str, path: str) -> Manifest:
    """An environment variable from the pod's own object."""
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def host_path(name: str, path: object, kind: str) -> Manifest:
    """A volume of the node's own files."""
    return {"name": name, "hostPath": {"path": path, "type": kind}}


def mount(name: str, path: object, *, read_only: bool = False) -> Manifest:
    """Where a volume is in a container."""
    made: Manifest = {"name": name, "mountPath": path}
    return {**made, "readOnly": True} if read_only else made
