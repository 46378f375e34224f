"""Schema of TrafficPolicy (meshnode.io/v1alpha1)."""

from __future__ import annotations

import msgspec

from mesh.model.traffic import Algorithm, Locality, RateLimitKey, RetryOn
from mesh.sources.gateway_schema import SessionSpec, ValueMatchSpec
from mesh.sources.objects import Metadata, Strict
from mesh.sources.security_schema import Selector


class TargetSpec(Strict, frozen=True, kw_only=True):
    """spec.targetRefs[]."""

    kind: str
    name: str
    group: str = ""
    section_name: str | None = None


class CookieKeySpec(Strict, frozen=True, kw_only=True):
    """hash[].cookie."""

    name: str
    path: str = "/"
    ttl: str | None = None


class HashSpec(Strict, frozen=True, kw_only=True):
    """loadBalancing.hash[]: exactly one source."""

    header: str | None = None
    cookie: CookieKeySpec | None = None
    query_param: str | None = None
    source_ip: bool | None = msgspec.field(default=None, name="sourceIP")
    terminal: bool = False


class LeastRequestSpec(Strict, frozen=True, kw_only=True):
    """loadBalancing.leastRequest."""

    choices: int = 2


class PeakEwmaSpec(Strict, frozen=True, kw_only=True):
    """loadBalancing.peakEWMA."""

    default_rtt: str = "30ms"
    decay: str = "10s"


class RingHashSpec(Strict, frozen=True, kw_only=True):
    """loadBalancing.ringHash."""

    minimum_size: int = 1024
    maximum_size: int = 8 << 20


class MaglevSpec(Strict, frozen=True, kw_only=True):
    """loadBalancing.maglev."""

    table_size: int = 65537


class SlowStartSpec(Strict, frozen=True, kw_only=True):
    """loadBalancing.slowStart."""

    window: str
    aggression: float = 1.0
    min_weight_percent: float = 10.0


class LoadBalancingSpec(Strict, frozen=True, kw_only=True):
    """spec.loadBalancing."""

    algorithm: Algorithm = Algorithm.LEAST_REQUEST
    least_request: LeastRequestSpec = LeastRequestSpec()
    peak_ewma: PeakEwmaSpec = msgspec.field(default=PeakEwmaSpec(), name="peakEWMA")
    ring_hash: RingHashSpec = RingHashSpec()
    maglev: MaglevSpec = MaglevSpec()
    hash: tuple[HashSpec, ...] = ()
    locality: Locality = Locality.NONE
    slow_start: SlowStartSpec | None = None


class OutlierSpec(Strict, frozen=True, kw_only=True):
    """spec.outlierDetection."""

    consecutive_failures: int = 7
    consecutive_gateway_failures: int = 0
    consecutive_local_failures: int = 0
    failure_percent: float | None = None
    window: str = "10s"
    min_requests: int = 5
    base_ejection: str = "1s"
    max_ejection: str = "1m"
    jitter: float = 0.5
    max_ejected_percent: float = 50.0
    panic_percent: float = 0.0


class LimitsSpec(Strict, frozen=True, kw_only=True):
    """spec.limits."""

    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_requests: int | None = None
    max_retries: int | None = None
    max_endpoint_connections: int | None = None
    max_endpoint_requests: int | None = None
    max_caller_connections: int | None = None


class RetryBackoffSpec(Strict, frozen=True, kw_only=True):
    """spec.retry.backoff."""

    base: str = "25ms"
    maximum: str = "250ms"


class RetryPolicySpec(Strict, frozen=True, kw_only=True):
    """spec.retry."""

    attempts: int = 2
    on: tuple[RetryOn, ...] = ()
    codes: tuple[int, ...] = ()
    grpc_codes: tuple[int, ...] = ()
    per_try_timeout: str | None = None
    backoff: RetryBackoffSpec = RetryBackoffSpec()


class RetryBudgetSpec(Strict, frozen=True, kw_only=True):
    """spec.retryBudget."""

    percent: float = 20.0
    interval: str = "10s"
    min_retries_per_second: float = 10.0


class HedgingSpec(Strict, frozen=True, kw_only=True):
    """spec.hedging."""

    after: str
    attempts: int = 1


class RateLimitSpec(Strict, frozen=True, kw_only=True):
    """spec.rateLimits[]."""

    requests: int
    per: str = "1s"
    burst: int | None = None
    by: RateLimitKey = RateLimitKey.TOTAL
    header: str | None = None
    shadow: bool = False
    name: str = ""


class ConnectionRateLimitSpec(Strict, frozen=True, kw_only=True):
    """spec.connectionRateLimits[]."""

    connections: int
    per: str = "1s"
    burst: int | None = None
    by: RateLimitKey = RateLimitKey.TOTAL
    shadow: bool = False
    name: str = ""


class DelaySpec(Strict, frozen=True, kw_only=True):
    """spec.faults[].delay."""

    duration: str
    percent: float


class AbortSpec(Strict, frozen=True, kw_only=True):
    """spec.faults[].abort."""

    percent: float
    http_status: int | None = None
    grpc_status: int | None = None


class FaultSpec(Strict, frozen=True, kw_only=True):
    """spec.faults[]."""

    headers: tuple[ValueMatchSpec, ...] = ()
    delay: DelaySpec | None = None
    abort: AbortSpec | None = None


class BandwidthSpec(Strict, frozen=True, kw_only=True):
    """spec.bandwidth: bytes per second, as a number or a quantity such as 512Ki."""

    request: int | str | None = None
    response: int | str | None = None


class UpgradesSpec(Strict, frozen=True, kw_only=True):
    """spec.upgrades."""

    connect: bool = False
    idle_timeout: str | None = None
    max_duration: str | None = None


class TrafficPolicySpec(Strict, frozen=True, kw_only=True):
    """TrafficPolicy.spec."""

    target_refs: tuple[TargetSpec, ...] = ()
    selector: Selector | None = None
    load_balancing: LoadBalancingSpec | None = None
    outlier_detection: OutlierSpec | None = None
    limits: LimitsSpec | None = None
    retry: RetryPolicySpec | None = None
    retry_budget: RetryBudgetSpec | None = None
    hedging: HedgingSpec | None = None
    rate_limits: tuple[RateLimitSpec, ...] = ()
    connection_rate_limits: tuple[ConnectionRateLimitSpec, ...] = ()
    faults: tuple[FaultSpec, ...] = ()
    bandwidth: BandwidthSpec | None = None
    session_persistence: SessionSpec | None = None
    upgrades: UpgradesSpec | None = None


class TrafficPolicyObject(Strict, frozen=True, kw_only=True):
    """meshnode.io/v1alpha1 TrafficPolicy."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: TrafficPolicySpec
    status: object = None
