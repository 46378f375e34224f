"""The dashboards of what users run: mesh, service, workload."""

from __future__ import annotations

from installer.boxes import (
    DURATION,
    FAILED,
    L7,
    OPENED,
    RECEIVED,
    REQUESTS,
    SENT,
    graph,
    stat,
    success,
)
from installer.panels import Dashboard, Panel, Query, Unit, Variable, View, or_zero, quantiles, rate

_ONCE = 'reporter="destination"'
"""Each connection once: a refused one has no destination, so refusals ask for the source."""
_REFUSED = 'reporter=~"source|destination"'
_SERVICE = 'destination_service_namespace=~"$namespace", destination_service_name=~"$service"'
_INBOUND = 'destination_workload_namespace=~"$namespace", destination_workload=~"$workload"'
_OUTBOUND = 'source_workload_namespace=~"$namespace", source_workload=~"$workload"'


def _bytes(matchers: str, by: str, name: str) -> list[Query]:
    return [
        Query(rate(SENT, f"{_ONCE}, {matchers}", by), f"{name} answers"),
        Query(rate(RECEIVED, f"{_ONCE}, {matchers}", by), f"{name} requests"),
    ]


MESH = Dashboard(
    uid="meshnode-mesh",
    title="meshnode / Mesh",
    panels=[
        stat("Requests", or_zero(rate(REQUESTS, L7)), Unit.REQUESTS),
        stat("Success rate", success(L7), Unit.RATIO),
        stat("Connections opened", or_zero(rate(OPENED, _ONCE)), Unit.PER_SECOND),
        stat("Refused by policy", or_zero(rate("meshnode_policy_denied_total"))),
        stat("Pods in the mesh", or_zero('sum(meshnode_pods{state="active"})')),
        stat("Pods that failed", or_zero('sum(meshnode_pods{state="failed"})')),
        graph(
            "Requests by status",
            Unit.REQUESTS,
            Query(rate(REQUESTS, L7, "response_code"), "{{response_code}}"),
        ),
        graph("Duration of requests", Unit.MILLISECONDS, *quantiles(DURATION, L7)),
        graph(
            "Connections by protection",
            Unit.PER_SECOND,
            Query(
                rate(OPENED, _ONCE, "connection_security_policy"),
                "{{connection_security_policy}}",
            ),
        ),
        graph(
            "Open connections by path",
            Unit.COUNT,
            Query("sum by (path) (meshnode_connections_open)", "{{path}}"),
        ),
        graph(
            "Bytes",
            Unit.BYTES_PER_SECOND,
            Query(rate(SENT, _ONCE), "answers"),
            Query(rate(RECEIVED, _ONCE), "requests"),
        ),
        graph(
            "Refused and broken connections",
            Unit.PER_SECOND,
            Query(rate(FAILED, _REFUSED, "response_flags"), "{{response_flags}}"),
        ),
        graph(
            "Refusals by rule",
            Unit.PER_SECOND,
            Query(f"topk(10, {rate('meshnode_policy_denied_total', '', 'policy')})", "{{policy}}"),
        ),
        graph(
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
                    + rate(OPENED, _ONCE, "destination_workload_namespace, destination_workload")
                    + ")"
                )
            ],
        ),
    ],
)


_SERVICE_L7 = f"{L7}, {_SERVICE}"

SERVICE = Dashboard(
    uid="meshnode-service",
    title="meshnode / Namespace and service",
    variables=[
        Variable("namespace", OPENED, "destination_service_namespace"),
        Variable("service", OPENED, "destination_service_name"),
    ],
    panels=[
        stat("Requests", or_zero(rate(REQUESTS, _SERVICE_L7)), Unit.REQUESTS, 6),
        stat("Success rate", success(_SERVICE_L7), Unit.RATIO, 6),
        stat("Connections", or_zero(rate(OPENED, f"{_ONCE}, {_SERVICE}")), Unit.PER_SECOND, 6),
        stat("Refused", or_zero(rate(FAILED, f"{_REFUSED}, {_SERVICE}")), Unit.PER_SECOND, 6),
        graph(
            "Requests by client and status",
            Unit.REQUESTS,
            Query(
                rate(REQUESTS, _SERVICE_L7, "source_workload, response_code"),
                "{{source_workload}} {{response_code}}",
            ),
        ),
        graph("Duration", Unit.MILLISECONDS, *quantiles(DURATION, _SERVICE_L7)),
        graph(
            "Connections by client",
            Unit.PER_SECOND,
            Query(
                rate(
                    OPENED,
                    f"{_ONCE}, {_SERVICE}",
                    "source_workload, connection_security_policy",
                ),
                "{{source_workload}} {{connection_security_policy}}",
            ),
        ),
        graph(
            "Bytes by client",
            Unit.BYTES_PER_SECOND,
            *_bytes(_SERVICE, "source_workload", "{{source_workload}}"),
        ),
        graph(
            "Requests by backend",
            Unit.REQUESTS,
            Query(rate(REQUESTS, _SERVICE_L7, "destination_workload"), "{{destination_workload}}"),
        ),
        graph(
            "Connections by backend",
            Unit.PER_SECOND,
            Query(
                rate(OPENED, f"{_ONCE}, {_SERVICE}", "destination_workload"),
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
        Variable("namespace", OPENED, "destination_workload_namespace"),
        Variable("workload", OPENED, "destination_workload"),
    ],
    panels=[
        graph(
            "Inbound requests",
            Unit.REQUESTS,
            Query(
                rate(REQUESTS, f"{L7}, {_INBOUND}", f"{_SOURCES}, response_code"),
                f"{_PEER} {{{{response_code}}}}",
            ),
        ),
        graph(
            "Inbound duration",
            Unit.MILLISECONDS,
            *quantiles(DURATION, f"{L7}, {_INBOUND}"),
        ),
        graph(
            "Inbound connections",
            Unit.PER_SECOND,
            Query(rate(OPENED, f"{_ONCE}, {_INBOUND}", _SOURCES), _PEER),
        ),
        graph("Inbound bytes", Unit.BYTES_PER_SECOND, *_bytes(_INBOUND, _SOURCES, _PEER)),
        graph(
            "Inbound refusals",
            Unit.PER_SECOND,
            Query(
                or_zero(rate(FAILED, f"{_REFUSED}, {_INBOUND}", f"{_SOURCES}, response_flags")),
                f"{_PEER} {{{{response_flags}}}}",
            ),
        ),
        graph(
            "Outbound requests",
            Unit.REQUESTS,
            Query(or_zero(rate(REQUESTS, f"{L7}, {_OUTBOUND}", _DESTINATIONS)), _OTHER),
        ),
        graph(
            "Outbound connections",
            Unit.PER_SECOND,
            Query(or_zero(rate(OPENED, f"{_ONCE}, {_OUTBOUND}", _DESTINATIONS)), _OTHER),
        ),
        graph(
            "Outbound refusals",
            Unit.PER_SECOND,
            Query(
                or_zero(
                    rate(FAILED, f"{_REFUSED}, {_OUTBOUND}", f"{_DESTINATIONS}, response_flags")
                ),
                f"{_OTHER} {{{{response_flags}}}}",
            ),
        ),
    ],
)
