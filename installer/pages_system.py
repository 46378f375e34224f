"""The dashboards of our own processes: ztunnel, waypoint, controller."""

from __future__ import annotations

from installer.boxes import DURATION, L7, REQUESTS, graph, stat, success
from installer.panels import Dashboard, Query, Unit, Variable, or_zero, quantiles, rate

_NODE = 'instance=~"$instance"'

ZTUNNEL = Dashboard(
    uid="meshnode-ztunnel",
    title="meshnode / ztunnel and BPF",
    variables=[Variable("instance", "meshnode_build_info", "instance")],
    panels=[
        stat("Agents", f"count(meshnode_build_info{{{_NODE}}})"),
        stat("Workers ready", f'sum(meshnode_workers{{{_NODE}, state="ready"}})'),
        stat("Worker restarts", f"sum(meshnode_worker_restarts_total{{{_NODE}}})"),
        stat(
            "First certificate ends in",
            f"min(meshnode_certificate_expiry_timestamp_seconds{{{_NODE}}}) - time()",
            Unit.SECONDS,
        ),
        stat(
            "Workers behind",
            f"max(meshnode_snapshot_revision{{{_NODE}}}"
            f" - meshnode_worker_snapshot_revision_min{{{_NODE}}})",
        ),
        stat("Objects with problems", or_zero(f"sum(meshnode_source_problems{{{_NODE}}})")),
        graph(
            "Silence of the API server",
            Unit.SECONDS,
            Query(f"meshnode_source_silence_seconds{{{_NODE}}}", "{{instance}}"),
        ),
        graph(
            "Pods by state of enrolment",
            Unit.COUNT,
            Query(f"sum by (instance, state) (meshnode_pods{{{_NODE}}})", "{{state}}"),
        ),
        graph(
            "Open connections",
            Unit.COUNT,
            Query(
                f"sum by (instance, path) (meshnode_connections_open{{{_NODE}}})",
                "{{instance}} {{path}}",
            ),
        ),
        graph(
            "Tunnels and streams",
            Unit.COUNT,
            Query(f"sum by (instance) (meshnode_tunnels{{{_NODE}}})", "{{instance}} tunnels"),
            Query(f"sum by (instance) (meshnode_streams{{{_NODE}}})", "{{instance}} streams"),
        ),
        graph(
            "Outcomes of BPF programs",
            Unit.PER_SECOND,
            Query(rate("meshnode_kernel_events_total", _NODE, "reason"), "{{reason}}"),
        ),
        graph(
            "Refused and dropped in the kernel",
            Unit.PER_SECOND,
            Query(
                rate(
                    "meshnode_kernel_events_total",
                    f'{_NODE}, reason=~"deny_.*|drop_.*"',
                    "reason",
                ),
                "{{reason}}",
            ),
        ),
        graph(
            "How full BPF maps are",
            Unit.RATIO,
            Query(
                f"max by (map) (meshnode_map_entries{{{_NODE}}}"
                f" / meshnode_map_capacity{{{_NODE}}})",
                "{{map}}",
            ),
        ),
        graph(
            "Lost records",
            Unit.PER_SECOND,
            Query(rate("meshnode_ring_lost_events_total", _NODE), "kernel events"),
            Query(rate("meshnode_access_log_dropped_total", _NODE), "access log lines"),
            Query(rate("meshnode_metrics_overflow_total", _NODE), "label sets"),
        ),
        graph(
            "Label sets in memory",
            Unit.COUNT,
            Query(f"sum by (instance) (meshnode_metrics_series{{{_NODE}}})", "{{instance}}"),
        ),
        graph(
            "Memory of the node process",
            Unit.BYTES,
            Query(f"process_resident_memory_bytes{{{_NODE}}}", "{{instance}}"),
        ),
        graph(
            "CPU of the node process",
            Unit.RATIO,
            Query(rate("process_cpu_seconds_total", _NODE, "instance"), "{{instance}}"),
        ),
    ],
)


_WAYPOINT = f'{L7}, destination_service_namespace=~"$namespace"'

WAYPOINT = Dashboard(
    uid="meshnode-waypoint",
    title="meshnode / Waypoints",
    variables=[Variable("namespace", REQUESTS, "destination_service_namespace")],
    panels=[
        stat("Requests", or_zero(rate(REQUESTS, _WAYPOINT)), Unit.REQUESTS, 6),
        stat("Success rate", success(_WAYPOINT), Unit.RATIO, 6),
        stat(
            "Refused (4xx)",
            or_zero(rate(REQUESTS, f'{_WAYPOINT}, response_code=~"4.."')),
            Unit.REQUESTS,
            6,
        ),
        stat(
            "Failed (5xx)",
            or_zero(rate(REQUESTS, f'{_WAYPOINT}, response_code=~"5.."')),
            Unit.REQUESTS,
            6,
        ),
        graph(
            "Requests by service and status",
            Unit.REQUESTS,
            Query(
                rate(REQUESTS, _WAYPOINT, "destination_service_name, response_code"),
                "{{destination_service_name}} {{response_code}}",
            ),
        ),
        graph(
            "Duration by service",
            Unit.MILLISECONDS,
            *quantiles(DURATION, _WAYPOINT, "destination_service_name"),
        ),
        graph(
            "Requests by client",
            Unit.REQUESTS,
            Query(
                rate(REQUESTS, _WAYPOINT, "source_workload, source_workload_namespace"),
                "{{source_workload}}.{{source_workload_namespace}}",
            ),
        ),
        graph(
            "Why requests ended early",
            Unit.REQUESTS,
            Query(rate(REQUESTS, _WAYPOINT, "response_flags"), "{{response_flags}}"),
        ),
        graph(
            "Bytes of bodies",
            Unit.BYTES_PER_SECOND,
            Query(rate("meshnode_waypoint_request_bytes_total", _WAYPOINT), "requests"),
            Query(rate("meshnode_waypoint_response_bytes_total", _WAYPOINT), "answers"),
        ),
        graph(
            "Requests by protocol",
            Unit.REQUESTS,
            Query(
                rate(REQUESTS, _WAYPOINT, "request_protocol, grpc_response_status"),
                "{{request_protocol}} {{grpc_response_status}}",
            ),
        ),
    ],
)


CONTROLLER = Dashboard(
    uid="meshnode-controller",
    title="meshnode / Controller",
    panels=[
        stat("Replicas", "count(meshnode_ca_problem)"),
        stat("That cannot sign", "sum(meshnode_ca_problem)"),
        stat(
            "First root ends in",
            "min(meshnode_ca_root_expiry_timestamp_seconds) - time()",
            Unit.SECONDS,
            8,
        ),
        stat("Roots", "count(count by (fingerprint) (meshnode_ca_root_expiry_timestamp_seconds))"),
        stat("Certificates", rate("meshnode_ca_certificates_total"), Unit.PER_SECOND),
        graph(
            "Requests for certificates",
            Unit.PER_SECOND,
            Query(rate("meshnode_ca_certificates_total", "", "result"), "{{result}}"),
        ),
        graph(
            "Certificates in use by the time they have left",
            Unit.SECONDS,
            *(
                Query(
                    f"quantile({part}, meshnode_certificate_expiry_timestamp_seconds - time())",
                    f"p{round(part * 100)}",
                )
                for part in (0.01, 0.5)
            ),
        ),
        graph(
            "Memory",
            Unit.BYTES,
            Query(
                "process_resident_memory_bytes and on (instance) meshnode_ca_problem",
                "{{instance}}",
            ),
        ),
        graph(
            "Objects with problems, as agents see them",
            Unit.COUNT,
            Query(or_zero("max by (severity) (meshnode_source_problems)"), "{{severity}}"),
        ),
    ],
)
