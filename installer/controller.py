"""The controller: Deployment, Service, disruption budget, and who may reach it."""

from __future__ import annotations

from installer.parts import (
    AGENT,
    CA_PORT,
    CONTROLLER,
    WEBHOOK_PORT,
    field_of_pod,
    http_probe,
    image,
    labels_of,
    mount,
    namespaced,
)
from installer.values import Manifest, Values

USER = 65532
"""Of the controller and of waypoints: nobody's number on the node, and not nobody's own."""


def deployment(values: Values) -> Manifest:
    """One leads; the others answer once it is gone."""
    return {
        **namespaced("apps/v1", "Deployment", CONTROLLER, values),
        "spec": {
            "replicas": values.value("controller.replicas"),
            "selector": {"matchLabels": labels_of(CONTROLLER)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {
                    "labels": {**labels_of(CONTROLLER), "meshnode.io/dataplane": "disabled"}
                },
                "spec": _pod(values),
            },
        },
    }


def _pod(values: Values) -> Manifest:
    spread: Manifest = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels_of(CONTROLLER)},
    }
    return {
        "serviceAccountName": CONTROLLER,
        "priorityClassName": values.value("controller.priorityClass"),
        "enableServiceLinks": False,
        "tolerations": values.value("controller.tolerations"),
        "nodeSelector": values.value("controller.nodeSelector"),
        "imagePullSecrets": values.value("image.pullSecrets"),
        "topologySpreadConstraints": [spread],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(values)],
        "volumes": [{"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}],
    }


def _container(values: Values) -> Manifest:
    port = values.value("controller.healthPort")
    return {
        "name": "controller",
        **image(values),
        "args": [
            "controller",
            "--source=kubernetes",
            # The keys live in the Secret; this is the copy that is worked with.
            "--ca=/run/meshnode/ca",
            f"--listen=*:{CA_PORT}",
            values.text("--health-port={controller.healthPort}"),
            values.text(f"--agent-account={{namespace}}/{AGENT}"),
            f"--webhook-port={WEBHOOK_PORT}",
        ],
        "env": [
            field_of_pod("POD_NAME", "metadata.name"),
            field_of_pod("POD_NAMESPACE", "metadata.namespace"),
            # Waypoints are made of the same image.
            {
                "name": "MESHNODE_IMAGE",
                "value": values.text("{image.repository}:{image.tag}"),
            },
        ],
        "ports": [
            {"name": "ca", "containerPort": CA_PORT},
            {"name": "http", "containerPort": port},
            {"name": "webhook", "containerPort": WEBHOOK_PORT},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "readinessProbe": http_probe("/healthz", port, periodSeconds=5),
        "livenessProbe": http_probe("/healthz", port, periodSeconds=10, failureThreshold=6),
        "resources": values.value("controller.resources"),
        "volumeMounts": [mount("state", "/run/meshnode")],
    }


def service(values: Values) -> Manifest:
    """Where agents ask for certificates."""
    return {
        **namespaced("v1", "Service", CONTROLLER, values),
        "spec": {
            "selector": labels_of(CONTROLLER),
            "ports": [
                {"name": "ca", "port": CA_PORT, "targetPort": "ca", "appProtocol": "https"},
                {
                    "name": "http",
                    "port": values.value("controller.healthPort"),
                    "targetPort": "http",
                },
                {"name": "webhook", "port": 443, "targetPort": "webhook"},
            ],
        },
    }


def disruption_budget(values: Values) -> Manifest:
    """A drained node takes one controller with it, not all."""
    return {
        **namespaced("policy/v1", "PodDisruptionBudget", CONTROLLER, values),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": labels_of(CONTROLLER)},
        },
    }


def network_policy(values: Values) -> Manifest:
    """Agents and waypoints ask for certificates, from node addresses too, which no selector can
    name: so the port is what is limited. Everything else stays closed."""
    return {
        **namespaced("networking.k8s.io/v1", "NetworkPolicy", CONTROLLER, values),
        "spec": {
            "podSelector": {"matchLabels": labels_of(CONTROLLER)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "ports": [
                        {"protocol": "TCP", "port": CA_PORT},
                        {"protocol": "TCP", "port": values.value("controller.healthPort")},
                        {"protocol": "TCP", "port": WEBHOOK_PORT},
                    ]
                }
            ],
        },
    }
