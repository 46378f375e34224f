"""The dashboards: mesh, service, workload, ztunnel, waypoint, controller."""

from __future__ import annotations

from collections.abc import Sequence

from installer.panels import (
    Dashboard,
    Panel,
    Query,
    Unit,
    Variable,
    View,
    or_zero,
    quantiles,
    rate,
    share,
)

_REQUESTS = "istio_requests_total"
_DURATION = "istio_request_duration_milliseconds"
_OPENED = "istio_tcp_connections_opened_total"
_FAILED = "istio_tcp_connections_failed_total"
_SENT, _RECEIVED = "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"
_L7 = 'reporter="waypoint"'
_ONCE = 'reporter="destination"'
"""Each connection once: a refused one has no destination, so refusals ask for the source."""
_REFUSED = 'reporter=~"source|destination"'
_SERVICE = 'destination_service_namespace=~"$namespace", destination_service_name=~"$service"'
_INBOUND = 'destination_workload_namespace=~"$namespace", destination_workload=~"$workload"'
_OUTBOUND = 'source_workload_namespace=~"$namespace", source_workload=~"$workload"'


def _stat(title: str, expr: str, unit: Unit = Unit.COUNT, width: int = 4) -> Panel:
    return Panel(title=title, queries=[Query(expr)], unit=unit, view=View.STAT, width=width)


def _graph(title: str, unit: Unit, *queries: Query, width: int = 12) -> Panel:
    return Panel(title=title, queries=queries, unit=unit, width=width)


def _success(matchers: str) -> str:
    good = rate(_REQUESTS, f'{matchers}, response_code!~"5.."')
    return share(good, rate(_REQUESTS, matchers))


def _bytes(matchers: str, by: str, name: str) -> list[Query]:
    return [
        Query(rate(_SENT, f"{_ONCE}, {matchers}", by), f"{name} answers"),
        Query(rate(_RECEIVED, f"{_ONCE}, {matchers}", by), f"{name} requests"),
    ]


MESH = Dashboard(
    uid="meshnode-mesh",
    title="meshnode / Mesh",
    panels=[
        _stat("Requests", or_zero(rate(_REQUESTS, _L7)), Unit.REQUESTS),
        _stat("Success rate", _success(_L7), Unit.RATIO),
        _stat("Connections opened", or_zero(rate(_OPENED, _ONCE)), Unit.PER_SECOND),
        _stat("Refused by policy", or_zero(rate("meshnode_policy_denied_total"))),
        _stat("Pods in the mesh", or_zero('sum(meshnode_pods{state="active"})')),
        _stat("Pods that failed", or_zero('sum(meshnode_pods{state="failed"})')),
        _graph(
            "Requests by status",
            Unit.REQUESTS,
            Query(rate(_REQUESTS, _L7, "response_code"), "{{response_code}}"),
        ),
        _graph("Duration of requests", Unit.MILLISECONDS, *quantiles(_DURATION, _L7)),
        _graph(
            "Connections by protection",
            Unit.PER_SECOND,
            Query(
                rate(_OPENED, _ONCE, "connection_security_policy"),
                "{{connection_security_policy}}",
            ),
        ),
        _graph(
            "Open connections by path",
            Unit.COUNT,
            Query("sum by (path) (meshnode_connections_open)", "{{path}}"),
        ),
        _graph(
            "Bytes",
            Unit.BYTES_PER_SECOND,
            Query(rate(_SENT, _ONCE), "answers"),
            Query(rate(_RECEIVED, _ONCE), "requests"),
        ),
        _graph(
            "Refused and broken connections",
            Unit.PER_SECOND,
            Query(rate(_FAILED, _REFUSED, "response_flags"), "{{response_flags}}"),
        ),
        _graph(
            "Refusals by rule",
            Unit.PER_SECOND,
            Query(f"topk(10, {rate('meshnode_policy_denied_total', '', 'policy')})", "{{policy}}"),
        ),
        _graph(
            "Versions",
            Unit.COUNT,
            Query("count by (version) (meshnode_build_info)", "{{version}}"),
        ),
        Panel(
            title="Busiest workloads",
            view=View.TABLE,
            unit=Unit.PER_SECOND,
            width=24,
            queries=[
                Query(
                    "topk(20, "
                    + rate(_OPENED, _ONCE, "destination_workload_namespace, destination_workload")
                    + ")"
                )
            ],
        ),
    ],
)


_SERVICE_L7 = f"{_L7}, {_SERVICE}"

SERVICE = Dashboard(
    uid="meshnode-service",
    title="meshnode / Namespace and service",
    variables=[
        Variable("namespace", _OPENED, "destination_service_namespace"),
        Variable("service", _OPENED, "destination_service_name"),
    ],
    panels=[
        _stat("Requests", or_zero(rate(_REQUESTS, _SERVICE_L7)), Unit.REQUESTS, 6),
        _stat("Success rate", _success(_SERVICE_L7), Unit.RATIO, 6),
        _stat("Connections", or_zero(rate(_OPENED, f"{_ONCE}, {_SERVICE}")), Unit.PER_SECOND, 6),
        _stat("Refused", or_zero(rate(_FAILED, f"{_REFUSED}, {_SERVICE}")), Unit.PER_SECOND, 6),
        _graph(
            "Requests by client and status",
            Unit.REQUESTS,
            Query(
                rate(_REQUESTS, _SERVICE_L7, "source_workload, response_code"),
                "{{source_workload}} {{response_code}}",
            ),
        ),
        _graph("Duration", Unit.MILLISECONDS, *quantiles(_DURATION, _SERVICE_L7)),
        _graph(
            "Connections by client",
            Unit.PER_SECOND,
            Query(
                rate(
                    _OPENED,
                    f"{_ONCE}, {_SERVICE}",
                    "source_workload, connection_security_policy",
                ),
                "{{source_workload}} {{connection_security_policy}}",
            ),
        ),
        _graph(
            "Bytes by client",
            Unit.BYTES_PER_SECOND,
            *_bytes(_SERVICE, "source_workload", "{{source_workload}}"),
        ),
        _graph(
            "Requests by backend",
            Unit.REQUESTS,
            Query(rate(_REQUESTS, _SERVICE_L7, "destination_workload"), "{{destination_workload}}"),
        ),
        _graph(
            "Connections by backend",
            Unit.PER_SECOND,
            Query(
                rate(_OPENED, f"{_ONCE}, {_SERVICE}", "destination_workload"),
                "{{destination_workload}}",
            ),
        ),
    ],
)


_PEER = "{{source_workload}}.{{source_workload_namespace}}"
_OTHER = "{{destination_workload}}.{{destination_workload_namespace}}"
_SOURCES = "source_workload, source_workload_namespace"
_DESTINATIONS = "destination_workload, destination_workload_namespace"

WORKLOAD = Dashboard(
    uid="meshnode-workload",
    title="meshnode / Workload",
    variables=[
        Variable("namespace", _OPENED, "destination_workload_namespace"),
        Variable("workload", _OPENED, "destination_workload"),
    ],
    panels=[
        _graph(
            "Inbound requests",
            Unit.REQUESTS,
            Query(
                rate(_REQUESTS, f"{_L7}, {_INBOUND}", f"{_SOURCES}, response_code"),
                f"{_PEER} {{{{response_code}}}}",
            ),
        ),
        _graph(
            "Inbound duration",
            Unit.MILLISECONDS,
            *quantiles(_DURATION, f"{_L7}, {_INBOUND}"),
        ),
        _graph(
            "Inbound connections",
            Unit.PER_SECOND,
            Query(rate(_OPENED, f"{_ONCE}, {_INBOUND}", _SOURCES), _PEER),
        ),
        _graph("Inbound bytes", Unit.BYTES_PER_SECOND, *_bytes(_INBOUND, _SOURCES, _PEER)),
        _graph(
            "Inbound refusals",
            Unit.PER_SECOND,
            Query(
                or_zero(rate(_FAILED, f"{_REFUSED}, {_INBOUND}", f"{_SOURCES}, response_flags")),
                f"{_PEER} {{{{response_flags}}}}",
            ),
        ),
        _graph(
            "Outbound requests",
            Unit.REQUESTS,
            Query(or_zero(rate(_REQUESTS, f"{_L7}, {_OUTBOUND}", _DESTINATIONS)), _OTHER),
        ),
        _graph(
            "Outbound connections",
            Unit.PER_SECOND,
            Query(or_zero(rate(_OPENED, f"{_ONCE}, {_OUTBOUND}", _DESTINATIONS)), _OTHER),
        ),
        _graph(
            "Outbound refusals",
            Unit.PER_SECOND,
            Query(
                or_zero(
                    rate(_FAILED, f"{_REFUSED}, {_OUTBOUND}", f"{_DESTINATIONS}, response_flags")
                ),
                f"{_OTHER} {{{{response_flags}}}}",
            ),
        ),
    ],
)


_NODE = 'instance=~"$instance"'

ZTUNNEL = Dashboard(
    uid="meshnode-ztunnel",
    title="meshnode / ztunnel and BPF",
    variables=[Variable("instance", "meshnode_build_info", "instance")],
    panels=[
        _stat("Agents", f"count(meshnode_build_info{{{_NODE}}})"),
        _stat("Workers ready", f'sum(meshnode_workers{{{_NODE}, state="ready"}})'),
        _stat("Worker restarts", f"sum(meshnode_worker_restarts_total{{{_NODE}}})"),
        _stat(
            "First certificate ends in",
            f"min(meshnode_certificate_expiry_timestamp_seconds{{{_NODE}}}) - time()",
            Unit.SECONDS,
        ),
        _stat(
            "Workers behind",
            f"max(meshnode_snapshot_revision{{{_NODE}}}"
            f" - meshnode_worker_snapshot_revision_min{{{_NODE}}})",
        ),
        _stat("Objects with problems", or_zero(f"sum(meshnode_source_problems{{{_NODE}}})")),
        _graph(
            "Pods by state of enrolment",
            Unit.COUNT,
            Query(f"sum by (instance, state) (meshnode_pods{{{_NODE}}})", "{{state}}"),
        ),
        _graph(
            "Open connections",
            Unit.COUNT,
            Query(
                f"sum by (instance, path) (meshnode_connections_open{{{_NODE}}})",
                "{{instance}} {{path}}",
            ),
        ),
        _graph(
            "Tunnels and streams",
            Unit.COUNT,
            Query(f"sum by (instance) (meshnode_tunnels{{{_NODE}}})", "{{instance}} tunnels"),
            Query(f"sum by (instance) (meshnode_streams{{{_NODE}}})", "{{instance}} streams"),
        ),
        _graph(
            "Outcomes of BPF programs",
            Unit.PER_SECOND,
            Query(rate("meshnode_kernel_events_total", _NODE, "reason"), "{{reason}}"),
        ),
        _graph(
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
        _graph(
            "How full BPF maps are",
            Unit.RATIO,
            Query(
                f"max by (map) (meshnode_map_entries{{{_NODE}}}"
                f" / meshnode_map_capacity{{{_NODE}}})",
                "{{map}}",
            ),
        ),
        _graph(
            "Lost records",
            Unit.PER_SECOND,
            Query(rate("meshnode_ring_lost_events_total", _NODE), "kernel events"),
            Query(rate("meshnode_access_log_dropped_total", _NODE), "access log lines"),
            Query(rate("meshnode_metrics_overflow_total", _NODE), "label sets"),
        ),
        _graph(
            "Label sets in memory",
            Unit.COUNT,
            Query(f"sum by (instance) (meshnode_metrics_series{{{_NODE}}})", "{{instance}}"),
        ),
        _graph(
            "Memory of the node process",
            Unit.BYTES,
            Query(f"process_resident_memory_bytes{{{_NODE}}}", "{{instance}}"),
        ),
        _graph(
            "CPU of the node process",
            Unit.RATIO,
            Query(rate("process_cpu_seconds_total", _NODE, "instance"), "{{instance}}"),
        ),
    ],
)


_WAYPOINT = f'{_L7}, destination_service_namespace=~"$namespace"'

WAYPOINT = Dashboard(
    uid="meshnode-waypoint",
    title="meshnode / Waypoints",
    variables=[Variable("namespace", _REQUESTS, "destination_service_namespace")],
    panels=[
        _stat("Requests", or_zero(rate(_REQUESTS, _WAYPOINT)), Unit.REQUESTS, 6),
        _stat("Success rate", _success(_WAYPOINT), Unit.RATIO, 6),
        _stat(
            "Refused (4xx)",
            or_zero(rate(_REQUESTS, f'{_WAYPOINT}, response_code=~"4.."')),
            Unit.REQUESTS,
            6,
        ),
        _stat(
            "Failed (5xx)",
            or_zero(rate(_REQUESTS, f'{_WAYPOINT}, response_code=~"5.."')),
            Unit.REQUESTS,
            6,
        ),
        _graph(
            "Requests by service and status",
            Unit.REQUESTS,
            Query(
                rate(_REQUESTS, _WAYPOINT, "destination_service_name, response_code"),
                "{{destination_service_name}} {{response_code}}",
            ),
        ),
        _graph(
            "Duration by service",
            Unit.MILLISECONDS,
            *quantiles(_DURATION, _WAYPOINT, "destination_service_name"),
        ),
        _graph(
            "Requests by client",
            Unit.REQUESTS,
            Query(
                rate(_REQUESTS, _WAYPOINT, "source_workload, source_workload_namespace"),
                "{{source_workload}}.{{source_workload_namespace}}",
            ),
        ),
        _graph(
            "Why requests ended early",
            Unit.REQUESTS,
            Query(rate(_REQUESTS, _WAYPOINT, "response_flags"), "{{response_flags}}"),
        ),
        _graph(
            "Bytes of bodies",
            Unit.BYTES_PER_SECOND,
            Query(rate("meshnode_waypoint_request_bytes_total", _WAYPOINT), "requests"),
            Query(rate("meshnode_waypoint_response_bytes_total", _WAYPOINT), "answers"),
        ),
        _graph(
            "Requests by protocol",
            Unit.REQUESTS,
            Query(
                rate(_REQUESTS, _WAYPOINT, "request_protocol, grpc_response_status"),
                "{{request_protocol}} {{grpc_response_status}}",
            ),
        ),
    ],
)


DASHBOARDS: Sequence[Dashboard] = (MESH, SERVICE, WORKLOAD, ZTUNNEL, WAYPOINT)
