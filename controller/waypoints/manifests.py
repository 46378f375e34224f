"""The objects that make one waypoint. Pure.

All of them are owned by the Gateway, so the cluster's garbage collector takes them with it, and
carry the labels of GEP-1762. The pods need no privilege.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from controller.waypoints.request import HBONE_PORT, WaypointRequest
from mesh.identity.directory import WAYPOINT_CLASS, WAYPOINT_CLASS_LABEL
from mesh.model.workload import WAYPOINT_LABEL
from mesh.run_files import VIEW_PORT, WAYPOINTS
from mesh.state.waypoints import WAYPOINT_FOR

Manifest: TypeAlias = "dict[str, object]"

ADMIN_PORT = 15021
USER = 65532
TOKEN_DIR = "/var/run/secrets/meshnode"
CA_ROOT_DIR = "/etc/meshnode/ca"
CA_ROOT = "meshnode-ca-root"
AUDIENCE = "meshnode-ca"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "meshnode-controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaypointSettings:
    """What all waypoints share.

    Attributes:
        ca_address: `host:port` where they get their certificates.
    """

    image: str
    ca_address: str
    pull_policy: str = "IfNotPresent"
    cpu: str = "100m"
    memory: str = "128Mi"


def waypoint_manifests(request: WaypointRequest, settings: WaypointSettings) -> list[Manifest]:
    """Everything that must exist for a waypoint, in the order in which it is made."""
    made = [
        {**_head("v1", "ServiceAccount", request), "automountServiceAccountToken": True},
        _service(request),
        _deployment(request, settings),
        _disruption_budget(request),
    ]
    if request.max_replicas:
        made.append(_autoscaler(request))
    return made


def _labels(request: WaypointRequest) -> dict[str, str]:
    return {
        WAYPOINT_LABEL: request.name,
        WAYPOINT_CLASS_LABEL: WAYPOINT_CLASS,
        WAYPOINT_FOR[0]: request.serves.value,
        MANAGED_BY: MANAGER,
    }


def _head(api_version: str, kind: str, request: WaypointRequest) -> Manifest:
    owner = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "name": request.name,
        "uid": request.uid,
        "controller": True,
    }
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": request.name,
            "namespace": request.namespace,
            "labels": _labels(request),
            "ownerReferences": [owner],
        },
    }


def _service(request: WaypointRequest) -> Manifest:
    port = {"name": "hbone", "port": HBONE_PORT, "protocol": "TCP", "appProtocol": "hbone"}
    return {
        **_head("v1", "Service", request),
        "spec": {"selector": {WAYPOINT_LABEL: request.name}, "ports": [port]},
    }


def _deployment(request: WaypointRequest, settings: WaypointSettings) -> Manifest:
    spec: Manifest = {
        "selector": {"matchLabels": {WAYPOINT_LABEL: request.name}},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "template": {
            "metadata": {
                "labels": {**_labels(request), "meshnode.io/dataplane": "disabled"},
            },
            "spec": _pod(request, settings),
        },
    }
    if not request.max_replicas:
        # With an autoscaler the number is its own; to apply it too would be a tug of war.
        spec["replicas"] = request.replicas
    return {**_head("apps/v1", "Deployment", request), "spec": spec}


def _pod(request: WaypointRequest, settings: WaypointSettings) -> Manifest:
    token = {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}
    return {
        "serviceAccountName": request.name,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {WAYPOINT_LABEL: request.name}},
            }
        ],
        "containers": [_container(request, settings)],
        "volumes": [
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            {"name": "ca-root", "configMap": {"name": CA_ROOT}},
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    }


def _container(request: WaypointRequest, settings: WaypointSettings) -> Manifest:
    ready = {"httpGet": {"path": "/healthz/ready", "port": "admin"}, "timeoutSeconds": 5}
    live = {"httpGet": {"path": "/healthz/live", "port": "admin"}, "timeoutSeconds": 5}
    return {
        "name": "waypoint",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "args": [
            "waypoint",
            f"--name={request.key}",
            f"--service-account={request.name}",
            "--source=kubernetes",
            f"--ca-address={settings.ca_address}",
            f"--join-token-file={TOKEN_DIR}/token",
            f"--ca-root-file={CA_ROOT_DIR}/root.pem",
            f"--listen=0.0.0.0:{HBONE_PORT}",
            f"--admin=0.0.0.0:{ADMIN_PORT}",
            f"--view=127.0.0.1:{VIEW_PORT}",
        ],
        "env": [
            {"name": "MESHNODE_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
        ],
        "ports": [
            {"name": "hbone", "containerPort": HBONE_PORT},
            {"name": "admin", "containerPort": ADMIN_PORT},
        ],
        "readinessProbe": {**ready, "periodSeconds": 2},
        "livenessProbe": {**live, "periodSeconds": 10, "failureThreshold": 6},
        "resources": {"requests": {"cpu": settings.cpu, "memory": settings.memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "token", "mountPath": TOKEN_DIR, "readOnly": True},
            {"name": "ca-root", "mountPath": CA_ROOT_DIR, "readOnly": True},
            {"name": "run", "mountPath": str(WAYPOINTS)},
        ],
    }


def _disruption_budget(request: WaypointRequest) -> Manifest:
    return {
        **_head("policy/v1", "PodDisruptionBudget", request),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {WAYPOINT_LABEL: request.name}},
        },
    }


def _autoscaler(request: WaypointRequest) -> Manifest:
    target = {"type": "Utilization", "averageUtilization": 80}
    return {
        **_head("autoscaling/v2", "HorizontalPodAutoscaler", request),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": request.name,
            },
            "minReplicas": request.replicas,
            "maxReplicas": request.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }
