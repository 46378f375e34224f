"""TrafficPolicy objects to `mesh.model.traffic`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mesh.errors import ConfigError
from mesh.model.policy import PolicyKey
from mesh.model.routing import GATEWAY_GROUP, RouteKind, ValueMatch, ValueMatchType
from mesh.model.traffic import (
    GATEWAY_KIND,
    Algorithm,
    Bandwidth,
    Fault,
    HashKey,
    HashSource,
    LoadBalancing,
    PolicyTarget,
    RateLimit,
    RateLimitKey,
    SlowStart,
    TrafficPolicy,
    Upgrades,
)
from mesh.routing.regex import compile_pattern
from mesh.sources.fields import FieldError, FieldPath
from mesh.sources.gateway_schema import ValueMatchSpec
from mesh.sources.gateway_timing import read_session
from mesh.sources.http_fields import (
    check_count,
    parse_between,
    parse_byte_rate,
    parse_header_name,
    parse_percent,
    parse_positive,
    parse_positive_duration,
)
from mesh.sources.traffic_protection import (
    MAX_COUNT,
    read_circuit_limits,
    read_hedging,
    read_outliers,
    read_retry_budget,
    read_retry_policy,
)
from mesh.sources.traffic_schema import (
    AbortSpec,
    BandwidthSpec,
    ConnectionRateLimitSpec,
    FaultSpec,
    HashSpec,
    LoadBalancingSpec,
    RateLimitSpec,
    TargetSpec,
    TrafficPolicyObject,
    TrafficPolicySpec,
    UpgradesSpec,
)

_MAX_TARGETS = _MAX_ITEMS = 16
_MAX_RING = 8 << 20
_MAX_TABLE = 5_000_011  # Envoy's largest Maglev table; a prime.
_HASHED = (Algorithm.RING_HASH, Algorithm.MAGLEV)
_TARGETS = frozenset(
    {
        ("", "Service"),
        (GATEWAY_GROUP, GATEWAY_KIND),
        *((GATEWAY_GROUP, str(kind)) for kind in RouteKind),
    }
)


def traffic_policy(body: TrafficPolicyObject) -> TrafficPolicy:
    """Turn the object into the model's value; raise `FieldError`."""
    meta, spec = body.metadata, body.spec
    at: FieldPath = ("spec",)
    check_count(len(spec.faults), _MAX_ITEMS, (*at, "faults"))
    return TrafficPolicy(
        key=PolicyKey(f"{meta.namespace}/{meta.name}"),
        namespace=meta.namespace,
        name=meta.name,
        targets=_targets(spec, at),
        selector=dict(spec.selector.match_labels) if spec.selector else None,
        load_balancing=_balancing(spec.load_balancing, (*at, "loadBalancing")),
        outlier_detection=read_outliers(spec.outlier_detection, (*at, "outlierDetection")),
        limits=read_circuit_limits(spec.limits, (*at, "limits")),
        retry=read_retry_policy(spec.retry, (*at, "retry")),
        retry_budget=read_retry_budget(spec.retry_budget, (*at, "retryBudget")),
        hedging=read_hedging(spec.hedging, (*at, "hedging")),
        rate_limits=_rate_limits(spec.rate_limits, (*at, "rateLimits")),
        connection_rate_limits=_rate_limits(
            spec.connection_rate_limits, (*at, "connectionRateLimits")
        ),
        faults=tuple(
            _fault(item, (*at, "faults", number)) for number, item in enumerate(spec.faults)
        ),
        bandwidth=_bandwidth(spec.bandwidth, (*at, "bandwidth")),
        session=read_session(spec.session_persistence, (*at, "sessionPersistence")),
        upgrades=_upgrades(spec.upgrades, (*at, "upgrades")),
        created=meta.creation_timestamp,
        generation=meta.generation,
    )


def _targets(body: TrafficPolicySpec, base: FieldPath) -> tuple[PolicyTarget, ...]:
    specs, at = body.target_refs, (*base, "targetRefs")
    check_count(len(specs), _MAX_TARGETS, at)
    if specs and body.selector is not None:
        message = "selector and targetRefs exclude each other"
        raise FieldError((*base, "selector"), message, at_key=True)
    if not specs and body.selector is None:
        raise FieldError(at, "the policy needs a target, or a selector of pods", at_key=True)
    return tuple(_target(spec, (*at, number)) for number, spec in enumerate(specs))


def _target(spec: TargetSpec, at: FieldPath) -> PolicyTarget:
    if (spec.group, spec.kind) not in _TARGETS:
        what = f"{spec.group}/{spec.kind}".strip("/")
        message = (
            f"{what!r} cannot be a target: want a Service, or a Gateway or route of "
            f"{GATEWAY_GROUP}; pods are chosen by spec.selector"
        )
        raise FieldError((*at, "kind"), message)
    if spec.kind == GATEWAY_KIND and spec.section_name is not None:
        message = "a policy holds for the whole Gateway: leave the field out"
        raise FieldError((*at, "sectionName"), message)
    return PolicyTarget(
        group=spec.group, kind=spec.kind, name=spec.name, section_name=spec.section_name
    )


def _balancing(spec: LoadBalancingSpec | None, at: FieldPath) -> LoadBalancing | None:
    if spec is None:
        return None
    check_count(len(spec.hash), _MAX_ITEMS, (*at, "hash"))
    if spec.algorithm in _HASHED and not spec.hash:
        raise FieldError((*at, "algorithm"), f"{spec.algorithm} needs hash: what to hash on")
    if spec.hash and spec.algorithm not in _HASHED:
        names = " or ".join(_HASHED)
        raise FieldError((*at, "hash"), f"hash goes with algorithm {names}", at_key=True)
    ring, own = spec.ring_hash, (*at, "ringHash")
    minimum = parse_between(ring.minimum_size, 1, _MAX_RING, (*own, "minimumSize"))
    ewma = (*at, "peakEWMA")
    return LoadBalancing(
        algorithm=spec.algorithm,
        choices=parse_between(spec.least_request.choices, 2, 16, (*at, "leastRequest", "choices")),
        hash_keys=tuple(
            _hash_key(item, (*at, "hash", number)) for number, item in enumerate(spec.hash)
        ),
        min_ring_size=minimum,
        max_ring_size=parse_between(ring.maximum_size, minimum, _MAX_RING, (*own, "maximumSize")),
        table_size=_table_size(spec.maglev.table_size, (*at, "maglev", "tableSize")),
        default_rtt_s=parse_positive_duration(spec.peak_ewma.default_rtt, (*ewma, "defaultRtt")),
        decay_s=parse_positive_duration(spec.peak_ewma.decay, (*ewma, "decay")),
        locality=spec.locality,
        slow_start=_slow_start(spec, (*at, "slowStart")),
    )


def _table_size(size: int, at: FieldPath) -> int:
    parse_between(size, 3, _MAX_TABLE, at)
    if size % 2 == 0 or any(size % divisor == 0 for divisor in range(3, int(size**0.5) + 1, 2)):
        raise FieldError(at, f"{size} is not a prime number")
    return size


def _slow_start(balancing: LoadBalancingSpec, at: FieldPath) -> SlowStart | None:
    spec = balancing.slow_start
    if spec is None:
        return None
    if balancing.algorithm not in (Algorithm.ROUND_ROBIN, Algorithm.LEAST_REQUEST):
        message = "slow start goes with RoundRobin and LeastRequest"
        raise FieldError(at, message, at_key=True)
    return SlowStart(
        window_s=parse_positive_duration(spec.window, (*at, "window")),
        aggression=parse_positive(spec.aggression, (*at, "aggression")),
        min_weight_percent=parse_percent(spec.min_weight_percent, (*at, "minWeightPercent")),
    )


def _hash_key(spec: HashSpec, at: FieldPath) -> HashKey:
    given = [item for item in (spec.header, spec.cookie, spec.query_param, spec.source_ip) if item]
    if len(given) != 1:
        raise FieldError(at, "want one of header, cookie, queryParam, sourceIP", at_key=True)
    if spec.header:
        name = parse_header_name(spec.header, (*at, "header"))
        return HashKey(source=HashSource.HEADER, name=name, terminal=spec.terminal)
    if spec.query_param:
        return HashKey(source=HashSource.QUERY, name=spec.query_param, terminal=spec.terminal)
    cookie = spec.cookie
    if cookie is None:
        return HashKey(source=HashSource.SOURCE_IP, terminal=spec.terminal)
    own = (*at, "cookie")
    parse_header_name(cookie.name, (*own, "name"))  # RFC 6265: a cookie's name is a token too.
    if not re.fullmatch(r"/[^\x00-\x20;\x7f]*", cookie.path):
        raise FieldError((*own, "path"), f"{cookie.path!r} is not the path of a cookie")
    return HashKey(
        source=HashSource.COOKIE,
        name=cookie.name,
        path=cookie.path,
        ttl_s=parse_positive_duration(cookie.ttl, (*own, "ttl")) if cookie.ttl else None,
        terminal=spec.terminal,
    )


def _rate_limits(
    specs: Sequence[RateLimitSpec | ConnectionRateLimitSpec], at: FieldPath
) -> tuple[RateLimit, ...]:
    check_count(len(specs), _MAX_ITEMS, at)
    return tuple(_rate_limit(spec, (*at, number)) for number, spec in enumerate(specs))


def _rate_limit(spec: RateLimitSpec | ConnectionRateLimitSpec, at: FieldPath) -> RateLimit:
    if isinstance(spec, RateLimitSpec):
        header, count, name = spec.header, spec.requests, "requests"
        if (spec.by is RateLimitKey.HEADER) != bool(header):
            raise FieldError((*at, "header"), "header goes with 'by: Header'", at_key=True)
    else:
        header, count, name = None, spec.connections, "connections"
        if spec.by is RateLimitKey.HEADER:
            raise FieldError((*at, "by"), "a connection that is no HTTP has no header")
    requests = parse_between(count, 1, MAX_COUNT, (*at, name))
    burst = requests if spec.burst is None else spec.burst
    return RateLimit(
        requests=requests,
        per_s=parse_positive_duration(spec.per, (*at, "per")),
        burst=parse_between(burst, 1, MAX_COUNT, (*at, "burst")),
        key=spec.by,
        header=parse_header_name(header, (*at, "header")) if header else "",
        shadow=spec.shadow,
        name=spec.name,
    )


def _fault(spec: FaultSpec, at: FieldPath) -> Fault:
    if spec.delay is None and spec.abort is None:
        raise FieldError(at, "a fault needs a delay, an abort or both", at_key=True)
    delay, abort = spec.delay, spec.abort
    if abort is not None:
        _check_abort(abort, (*at, "abort"))
    return Fault(
        headers=tuple(
            _header_match(item, (*at, "headers", number))
            for number, item in enumerate(spec.headers)
        ),
        delay_s=(
            parse_positive_duration(delay.duration, (*at, "delay", "duration")) if delay else None
        ),
        delay_percent=parse_percent(delay.percent, (*at, "delay", "percent")) if delay else 0.0,
        http_status=abort.http_status if abort else None,
        grpc_status=abort.grpc_status if abort else None,
        abort_percent=parse_percent(abort.percent, (*at, "abort", "percent")) if abort else 0.0,
    )


def _check_abort(spec: AbortSpec, at: FieldPath) -> None:
    if (spec.http_status is None) == (spec.grpc_status is None):
        raise FieldError(at, "want one of httpStatus and grpcStatus", at_key=True)
    if spec.http_status is not None:
        parse_between(spec.http_status, 200, 599, (*at, "httpStatus"))
    if spec.grpc_status is not None:
        parse_between(spec.grpc_status, 1, 16, (*at, "grpcStatus"))


def _header_match(spec: ValueMatchSpec, at: FieldPath) -> ValueMatch:
    name = parse_header_name(spec.name, (*at, "name"))
    if spec.type not in tuple(ValueMatchType):
        raise FieldError((*at, "type"), f"{spec.type!r} is not Exact or RegularExpression")
    kind = ValueMatchType(spec.type)
    if kind is ValueMatchType.REGEX:
        try:
            compile_pattern(spec.value)
        except ConfigError as error:
            raise FieldError((*at, "value"), str(error)) from error
    return ValueMatch(name=name, value=spec.value, kind=kind)


def _bandwidth(spec: BandwidthSpec | None, at: FieldPath) -> Bandwidth | None:
    if spec is None:
        return None

    def read(value: int | str | None, name: str) -> int | None:
        if value is None:
            return None
        return parse_byte_rate(value, (*at, name))

    return Bandwidth(
        request_bytes_per_s=read(spec.request, "request"),
        response_bytes_per_s=read(spec.response, "response"),
    )


def _upgrades(spec: UpgradesSpec | None, at: FieldPath) -> Upgrades | None:
    if spec is None:
        return None

    def read(value: str | None, name: str) -> float | None:
        return None if value is None else parse_positive_duration(value, (*at, name))

    return Upgrades(
        connect=spec.connect,
        idle_timeout_s=read(spec.idle_timeout, "idleTimeout"),
        max_duration_s=read(spec.max_duration, "maxDuration"),
    )
