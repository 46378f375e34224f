"""TrafficPolicy objects to `mesh.model.traffic`."""

from __future__ import annotations

import re

from mesh.errors import ConfigError
from mesh.model.policy import PolicyKey
from mesh.model.routing import GATEWAY_GROUP, RouteKind, ValueMatch, ValueMatchType
from mesh.model.traffic import (
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
    FaultSpec,
    HashSpec,
    LoadBalancingSpec,
    RateLimitSpec,
    TargetSpec,
    TrafficPolicyObject,
    UpgradesSpec,
)

_MAX_TARGETS = _MAX_ITEMS = 16
_MAX_RING = 8 << 20
_MAX_TABLE = 5_000_011  # Envoy's largest Maglev table; a prime.
_HASHED = (Algorithm.RING_HASH, Algorithm.MAGLEV)


def traffic_policy(body: TrafficPolicyObject) -> TrafficPolicy:
    """Turn the object into the model's value; raise `FieldError`."""
    meta, spec = body.metadata, body.spec
    at: FieldPath = ("spec",)
    for name, items in (("rateLimits", spec.rate_limits), ("faults", spec.faults)):
        check_count(len(items), _MAX_ITEMS, (*at, name))
    return TrafficPolicy(
        key=PolicyKey(f"{meta.namespace}/{meta.name}"),
        namespace=meta.namespace,
        name=meta.name,
        targets=_targets(spec.target_refs, (*at, "targetRefs")),
        load_balancing=_balancing(spec.load_balancing, (*at, "loadBalancing")),
        outlier_detection=read_outliers(spec.outlier_detection, (*at, "outlierDetection")),
        limits=read_circuit_limits(spec.limits, (*at, "limits")),
        retry=read_retry_policy(spec.retry, (*at, "retry")),
        retry_budget=read_retry_budget(spec.retry_budget, (*at, "retryBudget")),
        hedging=read_hedging(spec.hedging, (*at, "hedging")),
        rate_limits=tuple(
            _rate_limit(item, (*at, "rateLimits", number))
            for number, item in enumerate(spec.rate_limits)
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


def _targets(specs: tuple[TargetSpec, ...], at: FieldPath) -> tuple[PolicyTarget, ...]:
    check_count(len(specs), _MAX_TARGETS, at)
    if not specs:
        raise FieldError(at, "the policy needs a target", at_key=True)
    routes = tuple((GATEWAY_GROUP, str(kind)) for kind in RouteKind)
    for number, spec in enumerate(specs):
        if (spec.group, spec.kind) not in (("", "Service"), *routes):
            what = f"{spec.group}/{spec.kind}".strip("/")
            message = f"{what!r} cannot be a target: want a Service, or a route of {GATEWAY_GROUP}"
            raise FieldError((*at, number, "kind"), message)
    return tuple(
        PolicyTarget(
            group=spec.group, kind=spec.kind, name=spec.name, section_name=spec.section_name
        )
        for spec in specs
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


def _rate_limit(spec: RateLimitSpec, at: FieldPath) -> RateLimit:
    if (spec.by is RateLimitKey.HEADER) != bool(spec.header):
        raise FieldError((*at, "header"), "header goes with 'by: Header'", at_key=True)
    requests = parse_between(spec.requests, 1, MAX_COUNT, (*at, "requests"))
    burst = requests if spec.burst is None else spec.burst
    return RateLimit(
        requests=requests,
        per_s=parse_positive_duration(spec.per, (*at, "per")),
        burst=parse_between(burst, 1, MAX_COUNT, (*at, "burst")),
        key=spec.by,
        header=parse_header_name(spec.header, (*at, "header")) if spec.header else "",
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
