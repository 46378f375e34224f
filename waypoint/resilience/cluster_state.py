"""Traffic policies at work, for people: state of clusters, counters of what they refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mesh.resilience.circuit import Resource
from mesh.resilience.cluster import Cluster
from mesh.resilience.outlier import Health
from mesh.telemetry import names
from waypoint.feed import ClusterState, LimitState, MemberState, RateState
from waypoint.resilience.fair import FairGate
from waypoint.resilience.protection import Protection, Protections, Way
from waypoint.resilience.request_gate import Limiters
from waypoint.upstream.target import Target

Series = tuple[str, tuple[str, ...]]


def describe(protections: Protections, now: float) -> list[ClusterState]:
    """The state of everything that a policy protects."""
    return [_describe(way, found, now) for way, found in protections.active()]


def _describe(way: Way, found: Protection, now: float) -> ClusterState:
    cluster = found.cluster
    name = way.workload or way.service
    narrowest = way.places[0][0] if way.places else ""
    return ClusterState(
        service=name,
        port=way.port,
        route=narrowest if narrowest != name else "",
        algorithm=str(cluster.rules.load_balancing.algorithm),
        policies={part: str(key) for part, key in found.resolved.policy.sources},
        endpoints=[_member(cluster, target, now) for target in cluster.endpoints],
        limits={
            str(kind): LimitState(
                active=cluster.breaker.active(kind),
                most=cluster.breaker.most(kind),
                refused=cluster.breaker.rejected[kind],
            )
            for kind in Resource
        },
        rate_limits=[
            RateState(
                name=item.name,
                shadow=item.limiter.limit.shadow,
                passed=item.limiter.passed,
                limited=item.limiter.limited,
            )
            for limiters in (found.gate and found.gate.limiters, found.connection_limits)
            for item in (limiters.items if limiters else ())
        ],
    )


def _member(cluster: Cluster[Target], target: Target, now: float) -> MemberState:
    health = cluster.detector.health(target, now) if cluster.detector else Health()
    return MemberState(
        address=str(target.key.address),
        workload=target.dst.workload,
        active=target.active,
        connections=target.connections,
        weight=target.weight,
        zone=target.zone,
        state=str(health.state),
        failures_in_row=health.failures_in_row,
        ejections=health.ejections,
        ejected_s=health.ejected_s,
    )


class PolicyCounters:
    """Counts what happened since it was asked last; the hot path only adds to its own sums.

    State that a policy's change replaced takes what it had not told yet with it.
    """

    def __init__(self, count: Callable[[str, tuple[str, ...], int], None]) -> None:
        self._count = count
        self._told: dict[tuple[int, Series], int] = {}

    def tell(self, protections: Protections, fair: FairGate) -> None:
        """Count the growth of every sum."""
        told: dict[tuple[int, Series], int] = {}
        for owner, series, total in _sums(protections, fair):
            key = (id(owner), series)
            if key in told:
                continue  # shared by several ways
            before = self._told.get(key, 0)
            # A smaller sum is that of a new object at an old one's address.
            grown = total - before if total >= before else total
            told[key] = total
            if grown:
                self._count(*series, grown)
        self._told = told


def _sums(protections: Protections, fair: FairGate) -> Iterator[tuple[object, Series, int]]:
    yield fair, (names.UNFAIR.name, ()), fair.refused
    for way, found in protections.active():
        cluster, service = found.cluster, str(way.workload or way.service)
        breaker = cluster.breaker
        if cluster.detector is not None:
            yield cluster, (names.EJECTIONS.name, (service,)), cluster.detector.ejections
        for kind, refused in breaker.rejected.items():
            yield cluster, (names.CIRCUIT_REFUSALS.name, (service, str(kind))), refused
        spent = cluster.budget.refused if cluster.budget else 0
        made = breaker.accepted[Resource.RETRIES] - spent
        yield cluster, (names.RETRIES.name, (service, "made")), made
        yield cluster, (names.RETRIES.name, (service, "over_budget")), spent
        yield from _limited(names.RATE_LIMITED, found.gate.limiters if found.gate else None)
        yield from _limited(names.CONNECTIONS_LIMITED, found.connection_limits)


def _limited(
    metric: names.MetricSpec, limiters: Limiters | None
) -> Iterator[tuple[object, Series, int]]:
    for item in limiters.items if limiters else ():
        limiter = item.limiter
        beyond = "shadow" if limiter.limit.shadow else "limited"
        yield limiter, (metric.name, (item.name, "passed")), limiter.passed
        yield limiter, (metric.name, (item.name, beyond)), limiter.limited
