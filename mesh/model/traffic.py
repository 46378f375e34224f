"""TrafficPolicy: how traffic to a service or through a route is balanced, limited and protected.

What the Gateway API has no field for. Every part is optional; a part that is absent leaves the
data path's default, which never limits, delays or retries by surprise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mesh.model.policy import PolicyKey
from mesh.model.routing import SessionPersistence, ValueMatch

GATEWAY_KIND = "Gateway"
"""Kind of a target that is a waypoint."""


class Algorithm(StrEnum):
    """How an endpoint is chosen."""

    LEAST_REQUEST = "LeastRequest"
    ROUND_ROBIN = "RoundRobin"
    RANDOM = "Random"
    PEAK_EWMA = "PeakEWMA"
    RING_HASH = "RingHash"
    MAGLEV = "Maglev"


class HashSource(StrEnum):
    """What a request is hashed on."""

    HEADER = "header"
    COOKIE = "cookie"
    QUERY = "queryParam"
    SOURCE_IP = "sourceIP"


@dataclass(frozen=True, slots=True, kw_only=True)
class HashKey:
    """One ingredient of the hash.

    Attributes:
        ttl_s: a missing cookie is made, with this Max-Age; None = it is not made.
        terminal: when it yields a value, later keys are not asked.
    """

    source: HashSource
    name: str = ""
    ttl_s: float | None = None
    path: str = "/"
    terminal: bool = False


class Locality(StrEnum):
    """Which endpoints are preferred, seen from the proxy, while enough of them can serve."""

    NONE = "None"
    ZONE = "Zone"
    NODE = "Node"
    """Those of the node, then those of the zone, then the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStart:
    """A new endpoint's weight grows over `window_s`: max(minimum, (age/window)^(1/aggression))."""

    window_s: float
    aggression: float = 1.0
    min_weight_percent: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancing:
    """Choice of an endpoint. Ring and table sizes, RTT and decay as Envoy's and Linkerd's."""

    algorithm: Algorithm = Algorithm.LEAST_REQUEST
    choices: int = 2
    hash_keys: tuple[HashKey, ...] = ()
    min_ring_size: int = 1024
    max_ring_size: int = 8 << 20
    table_size: int = 65537
    default_rtt_s: float = 0.03
    decay_s: float = 10.0
    locality: Locality = Locality.NONE
    slow_start: SlowStart | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """When an endpoint is taken out, and how it comes back: one live request as a probe.

    Attributes:
        consecutive_failures: in a row, of any kind (a status of 500 to 599, a failed connection,
            a reset, a try that took too long); 0 turns this judge off.
        consecutive_gateway_failures: the same for 502, 503, 504 and what has no status.
        consecutive_local_failures: the same for what has no status: the proxy itself saw it fail.
        failure_percent: share of failures within `window_s` with at least `min_requests`;
            None turns this judge off.
        base_ejection_s: first wait before a probe; doubled per failed probe, up to
            `max_ejection_s`, each with a random extra of up to `jitter` of itself.
        max_ejected_percent: of a service's endpoints; one may always be ejected, never the last.
        panic_percent: while fewer endpoints than this share are left, ejections are ignored.
    """

    consecutive_failures: int = 7
    consecutive_gateway_failures: int = 0
    consecutive_local_failures: int = 0
    failure_percent: float | None = None
    window_s: float = 10.0
    min_requests: int = 5
    base_ejection_s: float = 1.0
    max_ejection_s: float = 60.0
    jitter: float = 0.5
    max_ejected_percent: float = 50.0
    panic_percent: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitLimits:
    """Most there may be at once towards a service, per proxy; None = no limit.

    Attributes:
        max_pending: requests that wait for a connection.
        max_endpoint_connections: to one endpoint; likewise `max_endpoint_requests`.
        max_caller_connections: that are no HTTP, of one verified caller.
    """

    max_connections: int | None = None
    max_pending: int | None = None
    max_requests: int | None = None
    max_retries: int | None = None
    max_endpoint_connections: int | None = None
    max_endpoint_requests: int | None = None
    max_caller_connections: int | None = None


class RetryOn(StrEnum):
    """Ways in which a try fails, for `RetryPolicy.on`; what was never sent is always repeated."""

    RESET = "Reset"
    """The connection or stream ended before a response."""
    TIMEOUT = "Timeout"
    """The time-out of one try passed."""
    GATEWAY_ERROR = "GatewayError"
    """502, 503 or 504."""
    SERVER_ERROR = "ServerError"
    """Any status of 500 to 599."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a request is tried again; a route rule's own `retry` comes before it.

    Attributes:
        attempts: tries after the first.
        codes: statuses, besides those that `on` names.
        grpc_codes: grpc-status values of a call that was answered without a message.
        per_try_timeout_s: of one try; None = no limit.
        backoff_s: base of the exponential, jittered wait, at most `max_backoff_s`.
    """

    attempts: int = 2
    on: frozenset[RetryOn] = frozenset()
    codes: frozenset[int] = frozenset()
    grpc_codes: frozenset[int] = frozenset()
    per_try_timeout_s: float | None = None
    backoff_s: float = 0.025
    max_backoff_s: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """Retries allowed: a share of requests in a sliding interval, plus a floor (GEP-3388)."""

    percent: float = 20.0
    interval_s: float = 10.0
    min_per_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedging:
    """A second try of an idempotent request that has no response after `after_s`."""

    after_s: float
    attempts: int = 1


class RateLimitKey(StrEnum):
    """Who shares a bucket."""

    TOTAL = "Total"
    IDENTITY = "Identity"
    HEADER = "Header"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A token bucket per key: `requests` every `per_s`, at most `burst` at once.

    Also of connections that are no HTTP, which have no headers. `shadow` counts what would have
    been refused, and refuses nothing.
    """

    requests: int
    per_s: float
    burst: int
    key: RateLimitKey = RateLimitKey.TOTAL
    header: str = ""
    shadow: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An injected delay or abort for a share of the requests that carry all `headers`.

    `http_status` and `grpc_status` exclude each other.
    """

    headers: tuple[ValueMatch, ...] = ()
    delay_s: float | None = None
    delay_percent: float = 0.0
    http_status: int | None = None
    grpc_status: int | None = None
    abort_percent: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Bytes per second of bodies, each way; None = no limit."""

    request_bytes_per_s: int | None = None
    response_bytes_per_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrades:
    """Requests that become tunnels: WebSockets and their like, and CONNECT.

    Attributes:
        connect: CONNECT is passed on to the service; otherwise it is refused.
        idle_timeout_s: without a byte either way; None = no limit, as for `max_duration_s`.
    """

    connect: bool = False
    idle_timeout_s: float | None = None
    max_duration_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTarget:
    """spec.targetRefs[]: a Service (a port of it by `section_name`), a route (a rule of it), or the
    Gateway of a waypoint: all that passes it."""

    group: str
    kind: str
    name: str
    section_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPolicy:
    """The object: targets or workloads of its own namespace, and the parts that are set.

    Attributes:
        selector: labels of the workloads whose own addresses it is about; None with `targets`.
    """

    key: PolicyKey
    namespace: str
    name: str
    targets: tuple[PolicyTarget, ...] = ()
    selector: Mapping[str, str] | None = None
    load_balancing: LoadBalancing | None = None
    outlier_detection: OutlierDetection | None = None
    limits: CircuitLimits | None = None
    retry: RetryPolicy | None = None
    retry_budget: RetryBudget | None = None
    hedging: Hedging | None = None
    rate_limits: tuple[RateLimit, ...] = ()
    connection_rate_limits: tuple[RateLimit, ...] = ()
    faults: tuple[Fault, ...] = ()
    bandwidth: Bandwidth | None = None
    session: SessionPersistence | None = None
    upgrades: Upgrades | None = None
    created: str = ""
    generation: int = 0
