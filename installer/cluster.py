"""Everything that is installed, as files in the order in which it is applied."""

from __future__ import annotations

from collections.abc import Sequence

from installer import agent, controller, crds, rbac
from installer.monitoring import dashboard_maps, monitors, prometheus_rule
from installer.parts import INSTALL_RECORD, LABELS, cluster_wide, namespaced
from installer.values import NAMESPACE, File, Manifest, Values

GATEWAY_CLASS = "meshnode-waypoint"
GATEWAY_CONTROLLER = "meshnode.io/waypoint-controller"


def files(values: Values) -> list[File]:
    """All manifests but the namespace, which Helm makes itself."""
    return [
        File(name="crds", manifests=_kept(crds.definitions()), when="crds.install"),
        File(name="rbac", manifests=rbac.manifests(str(values.value(NAMESPACE)))),
        File(name="priorityclass", manifests=[_priority_class()], when="priorityClass.enabled"),
        File(name="record", manifests=[_record(values)]),
        File(
            name="controller",
            manifests=[
                controller.service(values),
                controller.disruption_budget(values),
                controller.deployment(values),
            ],
        ),
        File(
            name="networkpolicy",
            manifests=[controller.network_policy(values)],
            when="networkPolicy.enabled",
        ),
        File(name="agent", manifests=[agent.daemon_set(values)]),
        File(name="gatewayclass", manifests=[_gateway_class()], when="gatewayClass.enabled"),
        File(name="servicemonitor", manifests=monitors(values), when="serviceMonitor.enabled"),
        File(
            name="prometheusrule",
            manifests=[prometheus_rule(values)],
            when="prometheusRule.enabled",
        ),
        File(name="dashboards", manifests=dashboard_maps(values), when="dashboards.enabled"),
    ]


def namespace(values: Values) -> Manifest:
    """Ours: agents are privileged, so the namespace must say so (Pod Security Standards)."""
    pod_security = {
        f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")
    }
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": values.value(NAMESPACE),
            "labels": {**LABELS, **pod_security, "meshnode.io/dataplane": "disabled"},
        },
    }


def _kept(definitions: Sequence[Manifest]) -> list[Manifest]:
    """Helm does not delete them with the release: every policy of the cluster would go too."""
    made: list[Manifest] = []
    for definition in definitions:
        metadata = definition["metadata"]
        if not isinstance(metadata, dict):
            raise TypeError("metadata is a mapping")
        annotations = {"helm.sh/resource-policy": "keep"}
        made.append({**definition, "metadata": {**metadata, "annotations": annotations}})
    return made


def _record(values: Values) -> Manifest:
    """The values in force: `meshnode upgrade` starts from them."""
    return {
        **namespaced("v1", "ConfigMap", INSTALL_RECORD, values),
        "data": {"values.json": values.record()},
    }


def _priority_class() -> Manifest:
    """Below the system's own (2,000,000,000), above all that people may make."""
    return {
        **cluster_wide("scheduling.k8s.io/v1", "PriorityClass", "meshnode"),
        "value": 1_000_000_000,
        "globalDefault": False,
        "description": "Agents and controller of the mesh: pods wait for them.",
    }


def _gateway_class() -> Manifest:
    return {
        **cluster_wide("gateway.networking.k8s.io/v1", "GatewayClass", GATEWAY_CLASS),
        "spec": {
            "controllerName": GATEWAY_CONTROLLER,
            "description": "L7 proxies of the mesh",
        },
    }
