"""Who scrapes what, alerts and dashboards as objects of a cluster."""

from __future__ import annotations

from installer.alerts import rule_groups
from installer.grafana import to_grafana
from installer.pages_all import DASHBOARDS
from installer.parts import AGENT, CONTROLLER, labels_of, namespaced
from installer.values import NAMESPACE, Manifest, Values

_OPERATOR = "monitoring.coreos.com/v1"
WAYPOINT_LABEL = "gateway.networking.k8s.io/gateway-name"


def monitors(values: Values) -> list[Manifest]:
    """Agents by their node's address, the others by their pods."""
    return [
        {
            **namespaced(_OPERATOR, "PodMonitor", AGENT, values),
            "spec": {
                "jobLabel": "app.kubernetes.io/name",
                "selector": {"matchLabels": labels_of(AGENT)},
                "podMetricsEndpoints": [{"relabelings": _by_address_of_the_node(values)}],
            },
        },
        {
            **namespaced(_OPERATOR, "PodMonitor", CONTROLLER, values),
            "spec": {
                "jobLabel": "app.kubernetes.io/name",
                "selector": {"matchLabels": labels_of(CONTROLLER)},
                "podMetricsEndpoints": [{"port": "http", "path": "/metrics"}],
            },
        },
        {
            **namespaced(_OPERATOR, "PodMonitor", "meshnode-waypoint", values),
            "spec": {
                "namespaceSelector": {"any": True},
                "selector": {"matchExpressions": [{"key": WAYPOINT_LABEL, "operator": "Exists"}]},
                "podMetricsEndpoints": [{"port": "admin", "path": "/metrics"}],
            },
        },
    ]


def _by_address_of_the_node(values: Values) -> list[Manifest]:
    """The port is on purpose no `containerPort`: with the node's network it would keep the agents
    of an upgrade from standing side by side."""
    host = "__meta_kubernetes_pod_host_ip"
    return [
        {
            "sourceLabels": [host],
            "targetLabel": "__address__",
            "replacement": values.text("$1:{agent.metricsPort}"),
        },
        {
            "sourceLabels": [host],
            "regex": "(.*:.*)",
            "targetLabel": "__address__",
            "replacement": values.text("[$1]:{agent.metricsPort}"),
        },
        {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"},
    ]


def prometheus_rule(values: Values) -> Manifest:
    """The alerts for the Prometheus operator."""
    return {
        **namespaced(_OPERATOR, "PrometheusRule", "meshnode", values),
        "spec": rule_groups(),
    }


def dashboard_maps(values: Values) -> list[Manifest]:
    """One ConfigMap each, under the label that Grafana's sidecar looks for."""
    made: list[Manifest] = []
    for dashboard in DASHBOARDS:
        labels = {"app.kubernetes.io/part-of": "meshnode", "grafana_dashboard": "1"}
        metadata = {"name": dashboard.uid, "namespace": values.value(NAMESPACE), "labels": labels}
        made.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": {f"{dashboard.uid}.json": to_grafana(dashboard)},
            }
        )
    return made
