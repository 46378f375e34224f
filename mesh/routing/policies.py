"""Which TrafficPolicy holds where.

Parts are settled one by one. On one target the older policy's part wins, and the newer policy is
`Conflicted`. The narrower target wins over the wider: rule, route, service port, service.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mesh.model.policy import PolicyKey
from mesh.model.routing import Route, RouteKey, SessionPersistence
from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import (
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
from mesh.model.workload import Service, ServiceKey


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
        faults=policy.faults,
        bandwidth=policy.bandwidth,
        session=policy.session,
        upgrades=policy.upgrades,
        sources=tuple((name, policy.key) for name in PARTS if getattr(policy, name)),
    )


PARTS = (
    "bandwidth",
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
"""Key of a service or route, and section (empty = the whole)."""


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
    ) -> None:
        self._places = places
        self.statuses = statuses

    @classmethod
    def compile(cls, snapshot: MeshSnapshot) -> PolicyTable:
        """Attach every policy to its targets."""
        held: dict[Place, _Held] = {}
        statuses: dict[PolicyKey, tuple[PolicyStatus, ...]] = {}
        for policy in sorted(snapshot.traffic_policies.values(), key=_age):
            statuses[policy.key] = tuple(
                _attach(policy, target, snapshot, held) for target in policy.targets
            )
        return cls({place: item.policy for place, item in held.items()}, statuses)

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
            own = self._places.get(place)
            if own is not None:
                policy = policy.over(own)
                for part, _ in own.sources:
                    at.setdefault(part, place)
        return Resolved(policy=policy, at=tuple(sorted(at.items())))

    @property
    def is_empty(self) -> bool:
        """Whether no policy holds anywhere."""
        return not self._places

    def _at(self, key: str, section: str) -> EffectivePolicy:
        whole = self._places.get((key, ""), _NOTHING)
        part = self._places.get((key, section)) if section else None
        return part.over(whole) if part else whole


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
