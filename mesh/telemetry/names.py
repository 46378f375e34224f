"""Every metric by name, kind, meaning and labels; `docs/metrics.md` is written from this table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus types in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric. `name` is as scraped, so a counter's ends in `_total`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_PARTY = (
    "workload",
    "workload_namespace",
    "principal",
    "app",
    "version",
    "cluster",
    "canonical_service",
    "canonical_revision",
)

TCP_LABELS = (
    "reporter",
    *(f"source_{name}" for name in _PARTY),
    *(f"destination_{name}" for name in _PARTY),
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
)
"""Istio's standard labels of TCP metrics; all come from the mesh's objects, none from a client."""


def _counter(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name=name, kind=Kind.COUNTER, help=text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name=name, kind=Kind.GAUGE, help=text, labels=labels)


def _histogram(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name=name, kind=Kind.HISTOGRAM, help=text, labels=labels)


OPENED = _counter("istio_tcp_connections_opened_total", "Connections opened.", *TCP_LABELS)
CLOSED = _counter("istio_tcp_connections_closed_total", "Connections ended.", *TCP_LABELS)
FAILED = _counter(
    "istio_tcp_connections_failed_total",
    "Connections that were refused or broke; response_flags says why.",
    *TCP_LABELS,
)
# Istio looks from the server: sent = response, received = request (istio/istio#32399).
SENT = _counter(
    "istio_tcp_sent_bytes_total", "Bytes from the destination to the source.", *TCP_LABELS
)
RECEIVED = _counter(
    "istio_tcp_received_bytes_total", "Bytes from the source to the destination.", *TCP_LABELS
)

CONNECTIONS = _counter(
    "meshnode_connections_total",
    "Ended connections by the way their bytes travelled.",
    "reporter",
    "path",
    "response_flags",
)
SERIES = _gauge("meshnode_metrics_series", "Label sets of TCP metrics held in memory.")
OVERFLOW = _counter(
    "meshnode_metrics_overflow_total",
    "Events counted under the label value `overflow` because too many label sets exist.",
)
AUDITED = _counter(
    "meshnode_policy_audited_total", "Connections that an AUDIT rule matched.", "reporter"
)
DRY_RUN = _counter(
    "meshnode_policy_dry_run_denied_total",
    "Connections that a dry-run policy would have denied.",
    "reporter",
)
DENIED = _counter(
    "meshnode_policy_denied_total",
    "Connections and requests that policy refused, by the rule that decided (`none`: the default).",
    "reporter",
    "policy",
)

BUILD = _gauge("meshnode_build_info", "Always 1.", "version")
KERNEL = _counter("meshnode_kernel_events_total", "Outcomes of the BPF programs.", "reason")
ENROLMENT = _gauge("meshnode_pods", "Local pods by state of enrolment.", "state")
WORKERS = _gauge("meshnode_workers", "ztunnel workers by state.", "state")
RESTARTS = _counter("meshnode_worker_restarts_total", "Workers started in place of a dead one.")
TUNNELS = _gauge("meshnode_tunnels", "Open HBONE tunnels.")
EXPIRED_CUT = _counter(
    "meshnode_expired_tunnels_cut_total",
    "HBONE tunnels ended with open connections, some time after a certificate of theirs had ended.",
)
RECORDS_LOST = _counter(
    "meshnode_connection_records_lost_total",
    "Records of connections that a worker could not hand over: neither counted nor logged.",
)
STREAMS = _gauge("meshnode_streams", "Open streams in HBONE tunnels.")
LIVE = _gauge("meshnode_connections_open", "Connections open now.", "path")
CERT_EXPIRY = _gauge(
    "meshnode_certificate_expiry_timestamp_seconds",
    "End of validity of each certificate in use.",
    "identity",
)
REVISION = _gauge("meshnode_snapshot_revision", "Revision of the newest snapshot.")
WORKER_REVISION = _gauge(
    "meshnode_worker_snapshot_revision_min", "Oldest revision any worker still serves."
)
PROBLEMS = _gauge("meshnode_source_problems", "Objects with a problem.", "severity")
SOURCE_SILENCE = _gauge(
    "meshnode_source_silence_seconds",
    "Time since the source said anything, of the kind of which that is longest; 0 for a directory.",
)
RING_LOST = _counter(
    "meshnode_ring_lost_events_total", "Kernel events lost because the ring buffer was full."
)
LOG_DROPPED = _counter(
    "meshnode_access_log_dropped_total", "Access log lines not written because of the rate limit."
)
MAP_ENTRIES = _gauge("meshnode_map_entries", "Entries of a BPF map.", "map")
MAP_CAPACITY = _gauge("meshnode_map_capacity", "Most entries a BPF map can hold.", "map")

REQUEST_LABELS = (*TCP_LABELS[:-1], "response_code", "grpc_response_status", TCP_LABELS[-1])
"""Istio's standard labels of HTTP metrics."""

REQUESTS = _counter("istio_requests_total", "Requests.", *REQUEST_LABELS)
REQUEST_DURATION = _histogram(
    "istio_request_duration_milliseconds", "Duration of requests.", *REQUEST_LABELS
)
REQUEST_BYTES = _histogram("istio_request_bytes", "Size of request bodies.", *REQUEST_LABELS)
RESPONSE_BYTES = _histogram("istio_response_bytes", "Size of response bodies.", *REQUEST_LABELS)
REQUEST_BYTES_SUM = _counter(
    "meshnode_waypoint_request_bytes_total", "Bytes of request bodies.", *REQUEST_LABELS
)
RESPONSE_BYTES_SUM = _counter(
    "meshnode_waypoint_response_bytes_total", "Bytes of response bodies.", *REQUEST_LABELS
)
REQUEST_METRICS = (
    REQUESTS, REQUEST_DURATION, REQUEST_BYTES, RESPONSE_BYTES, REQUEST_BYTES_SUM,
    RESPONSE_BYTES_SUM,
)  # fmt: skip

AUTHORIZER = _counter(
    "meshnode_waypoint_authorizer_requests_total",
    "Questions to external authorizers. Outcomes: allowed, denied, failed_open, failed_closed.",
    "provider",
    "outcome",
)
EJECTIONS = _counter(
    "meshnode_waypoint_ejections_total",
    "Endpoints taken out by outlierDetection, failed probes included.",
    "service",
)
CIRCUIT_REFUSALS = _counter(
    "meshnode_waypoint_limit_refusals_total",
    "What limits kept back. Resources: connections, pending, requests, retries.",
    "service",
    "resource",
)
RETRIES = _counter(
    "meshnode_waypoint_retries_total",
    "Retries and hedges of services with a TrafficPolicy. Outcomes: made, over_budget.",
    "service",
    "outcome",
)
RATE_LIMITED = _counter(
    "meshnode_waypoint_rate_limit_requests_total",
    "Requests by rate limit. Outcomes: passed, limited, shadow (would have been limited).",
    "limit",
    "outcome",
)
CONNECTIONS_LIMITED = _counter(
    "meshnode_waypoint_rate_limit_connections_total",
    "Connections that are no HTTP, by rate limit. Outcomes: passed, limited, shadow.",
    "limit",
    "outcome",
)
UNFAIR = _counter(
    "meshnode_waypoint_fair_share_refusals_total",
    "Requests refused because their caller had its share of a busy worker.",
)
REQUESTS_DENIED = _counter(
    "meshnode_waypoint_denied_total",
    "Requests that policy refused, by the rule that decided.",
    "policy",
)
WAYPOINT_WORKERS = _gauge("meshnode_waypoint_workers", "Worker processes by state.", "state")
WAYPOINT_RESTARTS = _counter(
    "meshnode_waypoint_worker_restarts_total", "Workers started in place of a dead one."
)
WAYPOINT_TUNNELS = _gauge("meshnode_waypoint_tunnels", "Open HBONE tunnels of clients.")
WAYPOINT_ACTIVE = _gauge("meshnode_waypoint_requests_active", "Requests under way.")
WAYPOINT_REVISION = _gauge(
    "meshnode_waypoint_snapshot_revision_min", "Oldest revision any worker still serves."
)
WAYPOINT_LOG_DROPPED = _gauge(
    "meshnode_waypoint_access_log_lost_lines",
    "Lines that were left out: more than the rate limit, or than had room.",
)
ISSUER_KEYS = _gauge(
    "meshnode_waypoint_issuer_keys",
    "Usable keys of a token issuer, by where they come from; 0: its tokens are refused.",
    "source",
)
ISSUER_FAILURES = _gauge(
    "meshnode_waypoint_issuer_fetch_failures",
    "Fetches of an issuer's keys that failed since the last that did not.",
    "source",
)
TRACE_SPANS = _counter(
    "meshnode_trace_spans_total",
    "Spans by outcome: exported, failed (the collector did not take them), dropped (no room).",
    "outcome",
)
WAYPOINT_STATE = (
    WAYPOINT_WORKERS, WAYPOINT_RESTARTS, WAYPOINT_TUNNELS, WAYPOINT_ACTIVE, WAYPOINT_REVISION,
    WAYPOINT_LOG_DROPPED, ISSUER_KEYS, ISSUER_FAILURES, TRACE_SPANS,
)  # fmt: skip
WAYPOINT_COUNTERS = (
    AUTHORIZER, EJECTIONS, CIRCUIT_REFUSALS, RETRIES, RATE_LIMITED, CONNECTIONS_LIMITED, UNFAIR,
    EXPIRED_CUT,
)  # fmt: skip
WAYPOINT_METRICS = (*WAYPOINT_STATE, *WAYPOINT_COUNTERS, REQUESTS_DENIED)

CERTIFICATES = _counter(
    "meshnode_ca_certificates_total",
    "Requests for certificates by result: `issued`, `refused`.",
    "result",
)
CA_PROBLEM = _gauge("meshnode_ca_problem", "1 while the certificate authority cannot sign.")
CA_ROOT_EXPIRY = _gauge(
    "meshnode_ca_root_expiry_timestamp_seconds",
    "End of validity of each root of the trust bundle.",
    "fingerprint",
)

CONTROLLER_METRICS = (CERTIFICATES, CA_PROBLEM, CA_ROOT_EXPIRY)
"""At the controller's health port, with the process metrics of Prometheus' client."""

CONNECTION_METRICS = (
    OPENED, CLOSED, FAILED, SENT, RECEIVED, CONNECTIONS, SERIES, OVERFLOW, AUDITED, DRY_RUN,
    DENIED,
)  # fmt: skip
NODE_METRICS = (
    BUILD, KERNEL, ENROLMENT, WORKERS, RESTARTS, TUNNELS, EXPIRED_CUT, RECORDS_LOST, STREAMS, LIVE,
    CERT_EXPIRY, REVISION, WORKER_REVISION, PROBLEMS, SOURCE_SILENCE, RING_LOST, LOG_DROPPED,
    MAP_ENTRIES, MAP_CAPACITY,
)  # fmt: skip
