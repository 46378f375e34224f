"""Which TrafficPolicy holds where.

Parts are settled one by one. On one target the older policy's part wins, and the newer policy is
`Conflicted`. The narrower target wins over the wider: rule, route, service port, service, and at
last the waypoint's Gateway. Selectors are about workloads dialled at their own addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mesh.model.policy import PolicyKey
from mesh.model.routing import Route, RouteKey, SessionPersistence
from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import (
    GATEWAY_KIND,
    Bandwidth,
    CircuitLimits,
    Fault,
    Hedging,
    LoadBalancing,
    OutlierDetection,
    PolicyTarget,
    RateLimit,
    RetryBudget,
    RetryPolicy,
    TrafficPolicy,
    Upgrades,
)
from mesh.model.workload import Service, ServiceKey, Workload, WorkloadUid


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectivePolicy:
    """The parts that hold at one place; None or empty = nothing was asked for.

    `sources` names the policy of each part, for people.
    """

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
    sources: tuple[tuple[str, PolicyKey], ...] = ()

    def over(self, wider: EffectivePolicy) -> EffectivePolicy:
        """Fill the parts that are absent here with those of a wider place."""
        own = dict(self.sources)
        return EffectivePolicy(
            load_balancing=self.load_balancing or wider.load_balancing,
            outlier_detection=self.outlier_detection or wider.outlier_detection,
            limits=self.limits or wider.limits,
            retry=self.retry or wider.retry,
            retry_budget=self.retry_budget or wider.retry_budget,
            hedging=self.hedging or wider.hedging,
            rate_limits=self.rate_limits or wider.rate_limits,
            connection_rate_limits=self.connection_rate_limits or wider.connection_rate_limits,
            faults=self.faults or wider.faults,
            bandwidth=self.bandwidth or wider.bandwidth,
            session=self.session or wider.session,
            upgrades=self.upgrades or wider.upgrades,
            sources=tuple(sorted({**dict(wider.sources), **own}.items())),
        )


def _parts(policy: TrafficPolicy) -> EffectivePolicy:
    return EffectivePolicy(
        load_balancing=policy.load_balancing,
        outlier_detection=policy.outlier_detection,
        limits=policy.limits,
        retry=policy.retry,
        retry_budget=policy.retry_budget,
        hedging=policy.hedging,
        rate_limits=policy.rate_limits,
        connection_rate_limits=policy.connection_rate_limits,
        faults=policy.faults,
        bandwidth=policy.bandwidth,
        session=policy.session,
        upgrades=policy.upgrades,
        sources=tuple((name, policy.key) for name in PARTS if getattr(policy, name)),
    )


PARTS = (
    "bandwidth",
    "connection_rate_limits",
    "faults",
    "hedging",
    "limits",
    "load_balancing",
    "outlier_detection",
    "rate_limits",
    "retry",
    "retry_budget",
    "session",
    "upgrades",
)
_NOTHING = EffectivePolicy()
_NOBODY: Mapping[WorkloadUid, Workload] = {}


class PolicyReason(StrEnum):
    """Reasons of a policy's Accepted condition (GEP-713)."""

    ACCEPTED = "Accepted"
    CONFLICTED = "Conflicted"
    TARGET_NOT_FOUND = "TargetNotFound"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """The Accepted condition towards one target; true only with reason ACCEPTED."""

    target: PolicyTarget
    reason: PolicyReason
    message: str


Place = tuple[str, str]
"""Key of a service or route, uid of a workload, or `gateway_place`; and section (empty = the
whole)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What holds, and per part the place whose policy gave it: those who share it share state."""

    policy: EffectivePolicy
    at: tuple[tuple[str, Place], ...]

    def place(self, part: str) -> Place:
        """Where a part comes from."""
        return dict(self.at)[part]


def places_of(key: str, section: str = "") -> tuple[Place, ...]:
    """A section, then the whole."""
    return ((key, section), (key, "")) if section else ((key, ""),)


def gateway_place(waypoint: str | None) -> tuple[Place, ...]:
    """All that passes a waypoint (`<namespace>/<name>`)."""
    return ((f"{GATEWAY_KIND}/{waypoint}", ""),) if waypoint else ()


@dataclass(slots=True)
class _Held:
    policy: EffectivePolicy = _NOTHING
    holders: dict[str, TrafficPolicy] = field(default_factory=dict)


class PolicyTable:
    """The policies of a snapshot, by place. Immutable."""

    def __init__(
        self,
        places: dict[Place, EffectivePolicy],
        statuses: dict[PolicyKey, tuple[PolicyStatus, ...]],
        selectors: Sequence[TrafficPolicy] = (),
        workloads: Mapping[WorkloadUid, Workload] = _NOBODY,
    ) -> None:
        self._places = places
        self.statuses = statuses
        self._selectors = selectors
        self._workloads = workloads

    @classmethod
    def compile(cls, snapshot: MeshSnapshot) -> PolicyTable:
        """Attach every policy to its targets."""
        held: dict[Place, _Held] = {}
        statuses: dict[PolicyKey, tuple[PolicyStatus, ...]] = {}
        policies = sorted(snapshot.traffic_policies.values(), key=_age)
        for policy in policies:
            statuses[policy.key] = tuple(
                _attach(policy, target, snapshot, held) for target in policy.targets
            )
        places = {place: item.policy for place, item in held.items()}
        selectors = [policy for policy in policies if policy.selector is not None]
        return cls(places, statuses, selectors, snapshot.workloads)

    def of_service(self, service: ServiceKey, port_name: str = "") -> EffectivePolicy:
        """What holds for a service, at one of its ports."""
        return self._at(service, port_name)

    def of_rule(
        self, route: RouteKey, rule_name: str, service: ServiceKey, port_name: str = ""
    ) -> EffectivePolicy:
        """What holds for a request that a rule sends to a service."""
        return self._at(route, rule_name).over(self._at(service, port_name))

    def resolve(self, places: Sequence[Place]) -> Resolved:
        """What holds where these places meet, the narrowest first."""
        policy = _NOTHING
        at: dict[str, Place] = {}
        for place in places:
            own = self._places.get(place) or self.of_workload(WorkloadUid(place[0]))
            if own is not None:
                policy = policy.over(own)
                for part, _ in own.sources:
                    at.setdefault(part, place)
        return Resolved(policy=policy, at=tuple(sorted(at.items())))

    @property
    def is_empty(self) -> bool:
        """Whether no policy holds anywhere."""
        return not self._places and not self._selectors

    def of_workload(self, uid: WorkloadUid) -> EffectivePolicy | None:
        """What selectors ask for at a workload's own address; None = nothing.

        Looked for when somebody dials it: few of all workloads ever are dialled so.
        """
        workload = self._workloads.get(uid) if self._selectors else None
        found: EffectivePolicy | None = None
        if workload is not None:
            for policy in self._selectors:
                if selects(policy, workload):
                    found = _parts(policy) if found is None else found.over(_parts(policy))
        return found

    def _at(self, key: str, section: str) -> EffectivePolicy:
        whole = self._places.get((key, ""), _NOTHING)
        part = self._places.get((key, section)) if section else None
        return part.over(whole) if part else whole


def selects(policy: TrafficPolicy, workload: Workload) -> bool:
    """Whether a policy's selector takes a workload; one without labels takes the namespace."""
    if policy.selector is None or policy.namespace != workload.namespace:
        return False
    return policy.selector.items() <= workload.labels.items()


def _age(policy: TrafficPolicy) -> tuple[str, str, str]:
    return policy.created, policy.namespace, policy.name


def _attach(
    policy: TrafficPolicy,
    target: PolicyTarget,
    snapshot: MeshSnapshot,
    held: dict[Place, _Held],
) -> PolicyStatus:
    section = target.section_name or ""
    name = f"{target.kind} {policy.namespace}/{target.name}"
    if target.kind == "Service":
        key: str = ServiceKey(f"{policy.namespace}/{target.name}")
        sections = _port_names(snapshot.services.get(ServiceKey(key)))
    elif target.kind == GATEWAY_KIND:
        ((key, _),) = gateway_place(f"{policy.namespace}/{target.name}")
        sections = ()  # whether there is such a Gateway, only the controller knows
    else:
        key = RouteKey(f"{target.kind}/{policy.namespace}/{target.name}")
        sections = _rule_names(snapshot.routes.get(RouteKey(key)))
    if sections is None or (section and section not in sections):
        what = f"section {section!r} of {name}" if sections is not None else name
        reason, message = PolicyReason.TARGET_NOT_FOUND, f"{what} does not exist"
        return PolicyStatus(target=target, reason=reason, message=message)
    place = held.setdefault((key, section), _Held())
    parts = _parts(policy)
    taken = [part for part, _ in parts.sources if part in place.holders]
    for part, _ in parts.sources:
        place.holders.setdefault(part, policy)
    place.policy = place.policy.over(parts)
    if taken:
        others = ", ".join(f"{part} ({place.holders[part].key})" for part in taken)
        message = f"an older policy holds on {name}: {others}"
        return PolicyStatus(target=target, reason=PolicyReason.CONFLICTED, message=message)
    return PolicyStatus(target=target, reason=PolicyReason.ACCEPTED, message=f"holds on {name}")


def _port_names(service: Service | None) -> Iterable[str] | None:
    return None if service is None else {port.name for port in service.ports}


def _rule_names(route: Route | None) -> Iterable[str] | None:
    return None if route is None else {rule.name for rule in route.rules if rule.name}
