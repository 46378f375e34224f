"""Metrics and kinds of boxes that several dashboards show."""

from __future__ import annotations

from installer.panels import Panel, Query, Unit, View, rate, share

REQUESTS = "istio_requests_total"
DURATION = "istio_request_duration_milliseconds"
OPENED = "istio_tcp_connections_opened_total"
FAILED = "istio_tcp_connections_failed_total"
SENT, RECEIVED = "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"
L7 = 'reporter="waypoint"'


def stat(title: str, expr: str, unit: Unit = Unit.COUNT, width: int = 4) -> Panel:
    """One number."""
    return Panel(title=title, queries=[Query(expr)], unit=unit, view=View.STAT, width=width)


def graph(title: str, unit: Unit, *queries: Query, width: int = 12) -> Panel:
    """Lines over time."""
    return Panel(title=title, queries=queries, unit=unit, width=width)


def success(matchers: str) -> str:
    """Share of requests that did not fail on the server's side."""
    good = rate(REQUESTS, f'{matchers}, response_code!~"5.."')
    return share(good, rate(REQUESTS, matchers))
