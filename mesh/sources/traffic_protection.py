"""The parts of a TrafficPolicy that protect: judges of endpoints, limits, retries."""

from __future__ import annotations

from mesh.model.traffic import (
    CircuitLimits,
    Hedging,
    OutlierDetection,
    RetryBudget,
    RetryPolicy,
)
from mesh.sources.fields import FieldError, FieldPath
from mesh.sources.http_fields import (
    parse_between,
    parse_limit,
    parse_percent,
    parse_positive,
    parse_positive_duration,
)
from mesh.sources.traffic_schema import (
    HedgingSpec,
    LimitsSpec,
    OutlierSpec,
    RetryBudgetSpec,
    RetryPolicySpec,
)

MAX_COUNT = 2**32 - 1


def read_outliers(spec: OutlierSpec | None, at: FieldPath) -> OutlierDetection | None:
    """Read spec.outlierDetection."""
    if spec is None:
        return None
    failures = parse_between(spec.consecutive_failures, 0, 1000, (*at, "consecutiveFailures"))
    gateway, local = spec.consecutive_gateway_failures, spec.consecutive_local_failures
    parse_between(gateway, 0, 1000, (*at, "consecutiveGatewayFailures"))
    parse_between(local, 0, 1000, (*at, "consecutiveLocalFailures"))
    percent = spec.failure_percent
    if percent is not None:
        percent = parse_percent(
            parse_positive(percent, (*at, "failurePercent")), (*at, "failurePercent")
        )
    if not (failures or gateway or local) and percent is None:
        raise FieldError(at, "neither consecutiveFailures nor failurePercent is set", at_key=True)
    base = parse_positive_duration(spec.base_ejection, (*at, "baseEjection"))
    longest = parse_positive_duration(spec.max_ejection, (*at, "maxEjection"))
    if longest < base:
        raise FieldError((*at, "maxEjection"), "shorter than baseEjection")
    if not 0 <= spec.jitter <= 1:
        raise FieldError((*at, "jitter"), f"{spec.jitter} is not between 0 and 1")
    return OutlierDetection(
        consecutive_failures=failures,
        consecutive_gateway_failures=gateway,
        consecutive_local_failures=local,
        failure_percent=percent,
        window_s=parse_positive_duration(spec.window, (*at, "window")),
        min_requests=parse_between(spec.min_requests, 1, 1_000_000, (*at, "minRequests")),
        base_ejection_s=base,
        max_ejection_s=longest,
        jitter=spec.jitter,
        max_ejected_percent=parse_percent(spec.max_ejected_percent, (*at, "maxEjectedPercent")),
        panic_percent=parse_percent(spec.panic_percent, (*at, "panicPercent")),
    )


def read_retry_budget(spec: RetryBudgetSpec | None, at: FieldPath) -> RetryBudget | None:
    """Read spec.retryBudget (GEP-3388)."""
    if spec is None:
        return None
    return RetryBudget(
        percent=parse_percent(spec.percent, (*at, "percent")),
        interval_s=parse_positive_duration(spec.interval, (*at, "interval")),
        min_per_s=parse_positive(spec.min_retries_per_second, (*at, "minRetriesPerSecond")),
    )


def read_hedging(spec: HedgingSpec | None, at: FieldPath) -> Hedging | None:
    """Read spec.hedging."""
    if spec is None:
        return None
    return Hedging(
        after_s=parse_positive_duration(spec.after, (*at, "after")),
        attempts=parse_between(spec.attempts, 1, 10, (*at, "attempts")),
    )


def read_circuit_limits(spec: LimitsSpec | None, at: FieldPath) -> CircuitLimits | None:
    """Read spec.limits."""
    if spec is None:
        return None

    def limit(value: int | None, name: str, least: int) -> int | None:
        return None if value is None else parse_between(value, least, MAX_COUNT, (*at, name))

    return CircuitLimits(
        max_connections=limit(spec.max_connections, "maxConnections", 1),
        max_pending=limit(spec.max_pending_requests, "maxPendingRequests", 0),
        max_requests=limit(spec.max_requests, "maxRequests", 1),
        max_retries=limit(spec.max_retries, "maxRetries", 0),
        max_endpoint_connections=limit(spec.max_endpoint_connections, "maxEndpointConnections", 1),
        max_endpoint_requests=limit(spec.max_endpoint_requests, "maxEndpointRequests", 1),
        max_caller_connections=limit(spec.max_caller_connections, "maxCallerConnections", 1),
    )


def read_retry_policy(spec: RetryPolicySpec | None, at: FieldPath) -> RetryPolicy | None:
    """Read spec.retry."""
    if spec is None:
        return None
    for number, code in enumerate(spec.codes):
        parse_between(code, 400, 599, (*at, "codes", number))
    for number, code in enumerate(spec.grpc_codes):
        parse_between(code, 1, 16, (*at, "grpcCodes", number))
    base = parse_positive_duration(spec.backoff.base, (*at, "backoff", "base"))
    longest = parse_positive_duration(spec.backoff.maximum, (*at, "backoff", "maximum"))
    if longest < base:
        raise FieldError((*at, "backoff", "maximum"), "shorter than base")
    return RetryPolicy(
        attempts=parse_between(spec.attempts, 0, 100, (*at, "attempts")),
        on=frozenset(spec.on),
        codes=frozenset(spec.codes),
        grpc_codes=frozenset(spec.grpc_codes),
        per_try_timeout_s=parse_limit(spec.per_try_timeout, (*at, "perTryTimeout")),
        backoff_s=base,
        max_backoff_s=longest,
    )
