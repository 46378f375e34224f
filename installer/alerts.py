"""Alert rules: what somebody should be told before users tell them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_HOUR = 3600


class Urgency(StrEnum):
    """Label `severity`."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule. `hold` is how long the condition must last."""

    name: str
    expr: str
    hold: str
    urgency: Urgency
    summary: str
    action: str


ALWAYS_FULL = ("mn_config", "mn_grant", "mn_meta", "mn_orig_dst", "mn_reason")
"""Arrays, and maps that throw out what was used least: neither can overflow."""
_EXPIRY = "meshnode_certificate_expiry_timestamp_seconds - time()"

ALERTS: Sequence[Alert] = (
    Alert(
        name="MeshnodeAgentDown",
        expr='up{job=~".*meshnode-agent"} == 0',
        hold="2m",
        urgency=Urgency.CRITICAL,
        summary="The agent of {{ $labels.instance }} does not answer.",
        action="Its workers go on with the last state. See the pod's log and `meshnode check`.",
    ),
    Alert(
        name="MeshnodeCertificateExpiring",
        # A day long, renewed at half of it: six hours left means that renewal has failed for six.
        expr=f"min by (instance, identity) ({_EXPIRY}) < {6 * _HOUR}",
        hold="5m",
        urgency=Urgency.WARNING,
        summary="{{ $labels.identity }} on {{ $labels.instance }} gets no new certificate.",
        action="See `meshnode certs` and whether the controller answers on port 15012.",
    ),
    Alert(
        name="MeshnodeCertificateExpired",
        expr=f"min by (instance, identity) ({_EXPIRY}) < 0",
        hold="0s",
        urgency=Urgency.CRITICAL,
        summary="{{ $labels.identity }} on {{ $labels.instance }} has no valid certificate.",
        action="Its connections are refused. See `meshnode certs` and the controller's log.",
    ),
    Alert(
        name="MeshnodeCaCannotSign",
        expr="max by (instance) (meshnode_ca_problem) > 0",
        hold="5m",
        urgency=Urgency.CRITICAL,
        summary="The certificate authority at {{ $labels.instance }} cannot sign.",
        action="Certificates in use last for hours. The controller's log names the reason.",
    ),
    Alert(
        name="MeshnodeRootExpiring",
        expr=f"min(meshnode_ca_root_expiry_timestamp_seconds) - time() < {30 * 24 * _HOUR}",
        hold="1h",
        urgency=Urgency.WARNING,
        summary="A root of the mesh ends within 30 days.",
        action="`meshnode ca rotate-root` overlaps the old root and a new one.",
    ),
    Alert(
        name="MeshnodeEnrolmentFailed",
        expr='sum by (instance) (meshnode_pods{state="failed"}) > 0',
        hold="5m",
        urgency=Urgency.CRITICAL,
        summary="{{ $value }} pods of {{ $labels.instance }} could not be taken into the mesh.",
        action="`meshnode status` names each with its reason.",
    ),
    Alert(
        name="MeshnodeEnrolmentSlow",
        expr='sum by (instance) (meshnode_pods{state="pending"}) > 0',
        hold="10m",
        urgency=Urgency.WARNING,
        summary="{{ $value }} pods of {{ $labels.instance }} are not in the mesh yet.",
        action="`meshnode status` names each with its reason.",
    ),
    Alert(
        name="MeshnodeKernelDrops",
        expr='sum by (instance, reason) (rate(meshnode_kernel_events_total{reason=~"drop_.*"}[5m]))'
        " > 0",
        hold="5m",
        urgency=Urgency.WARNING,
        summary="The kernel drops connections on {{ $labels.instance }}: {{ $labels.reason }}.",
        action="Failing closed: a listener or a setting is missing. See `meshnode bpf diff`.",
    ),
    Alert(
        name="MeshnodeMapFilling",
        expr="max by (instance, map) "
        f'(meshnode_map_entries{{map!~"{"|".join(ALWAYS_FULL)}"}} / meshnode_map_capacity) > 0.8',
        hold="5m",
        urgency=Urgency.WARNING,
        summary="BPF map {{ $labels.map }} of {{ $labels.instance }} is nearly full.",
        action="What does not fit goes through ztunnel. See `meshnode bpf maps`.",
    ),
    Alert(
        name="MeshnodeRecordsLost",
        expr="sum by (instance) (rate(meshnode_ring_lost_events_total[5m])) > 0",
        hold="5m",
        urgency=Urgency.WARNING,
        summary="Records of direct connections are lost on {{ $labels.instance }}.",
        action="Counts of direct connections are too low while this lasts; nothing else is hurt.",
    ),
    Alert(
        name="MeshnodeWorkersStale",
        expr="max by (instance) (meshnode_snapshot_revision"
        " - meshnode_worker_snapshot_revision_min) > 0",
        hold="2m",
        urgency=Urgency.CRITICAL,
        summary="Workers of {{ $labels.instance }} serve an old state of the mesh.",
        action="See the agent's log; a worker that hangs is replaced within seconds.",
    ),
    Alert(
        name="MeshnodeWorkersRestarting",
        expr="sum by (instance) (increase(meshnode_worker_restarts_total[15m])) > 3",
        hold="0s",
        urgency=Urgency.WARNING,
        summary="ztunnel workers of {{ $labels.instance }} keep ending.",
        action="The agent's log says how each ended.",
    ),
    Alert(
        name="MeshnodeSourceSilent",
        # A watch that hears nothing ends after eight and a half minutes at most, and begins anew.
        expr="max by (instance) (meshnode_source_silence_seconds) > 600",
        hold="1m",
        urgency=Urgency.CRITICAL,
        summary="{{ $labels.instance }} has heard nothing of the API server for {{ $value }} s.",
        action="Traffic goes on by the last known state; new pods and policies are not seen.",
    ),
    Alert(
        name="MeshnodeSourceStale",
        expr='sum by (instance) (meshnode_source_problems{severity="warning"}) > 0',
        hold="10m",
        urgency=Urgency.WARNING,
        summary="{{ $labels.instance }} cannot read every kind of object, or doubts some.",
        action="The last known state stays in force. `meshnode check` names the kinds.",
    ),
    Alert(
        name="MeshnodeObjectsInvalid",
        expr='sum by (instance) (meshnode_source_problems{severity="error"}) > 0',
        hold="5m",
        urgency=Urgency.WARNING,
        summary="{{ $value }} objects of the mesh are invalid.",
        action="Each keeps its last good version. `meshnode status` names field and reason.",
    ),
    Alert(
        name="MeshnodeWaypointErrors",
        expr="sum by (destination_service_namespace, destination_service_name)"
        ' (rate(istio_requests_total{reporter="waypoint", response_code=~"5.."}[5m]))'
        " / sum by (destination_service_namespace, destination_service_name)"
        ' (rate(istio_requests_total{reporter="waypoint"}[5m])) > 0.05',
        hold="10m",
        urgency=Urgency.WARNING,
        summary="More than 5 % of the requests to {{ $labels.destination_service_name }} fail.",
        action="The dashboard of waypoints shows the flags that say why.",
    ),
)


def rule_groups() -> dict[str, object]:
    """Rules as Prometheus reads them (`rule_files`), and as the operator's PrometheusRule.spec."""
    return {"groups": [{"name": "meshnode", "rules": [_rule(alert) for alert in ALERTS]}]}


def _rule(alert: Alert) -> dict[str, object]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.hold,
        "labels": {"severity": str(alert.urgency)},
        "annotations": {"summary": alert.summary, "description": alert.action},
    }
