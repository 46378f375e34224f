"""The decision about one connection, with the policy and rule that made it.

Order (Istio): PeerAuthentication, waypoint, DENY, rules that need L7, then ALLOW: no ALLOW
policy allows, any match allows, anything else is denied. Within a step the widest scope is
named first, then the smallest `<namespace>/<name>`, then the first rule.
"""

from __future__ import annotations

from mesh.model.identity import SpiffeId
from mesh.model.policy import AuthorizationPolicy, PolicyKey
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import ConnectionFacts, Decision, RuleRef, Verdict
from mesh.model.workload import Workload, WorkloadUid
from mesh.policy.layer import Layer, LayerCache
from mesh.policy.match import Peer, TrustDomains, peer_of
from mesh.policy.scope import (
    EffectiveMtls,
    Layers,
    authentication_scopes,
    authorization_scopes,
    effective_mtls,
)

WAYPOINT_LABEL = "gateway.networking.k8s.io/gateway-name"
"""Pods of a waypoint carry it, with the name of their Gateway (Gateway API GEP-1762)."""


class Destination:
    """Everything policy says about one workload."""

    __slots__ = ("layers", "mtls", "workload")

    def __init__(self, workload: Workload, layers: tuple[Layer, ...], mtls: EffectiveMtls) -> None:
        self.workload = workload
        self.layers = layers
        self.mtls = mtls


class PolicyIndex:
    """The policies of one snapshot. Immutable to users; destinations are compiled on first use."""

    def __init__(self, snapshot: MeshSnapshot, previous: PolicyIndex | None = None) -> None:
        settings = snapshot.settings
        self.trust_domains = TrustDomains(
            tuple(dict.fromkeys((settings.trust_domain, *settings.trust_domain_aliases)))
        )
        self._authorization = authorization_scopes(snapshot)
        self._authentication = authentication_scopes(snapshot)
        self._waypoints = _waypoint_identities(snapshot)
        self._cache: LayerCache = LayerCache(previous._cache if previous else None)
        self._destinations: dict[WorkloadUid, Destination] = {}

    @classmethod
    def compile(cls, snapshot: MeshSnapshot, previous: PolicyIndex | None = None) -> PolicyIndex:
        """Index the policies of a snapshot; `previous` lends what has not changed."""
        return cls(snapshot, previous)

    def evaluate(self, dst: Workload, facts: ConnectionFacts) -> Verdict:
        """Judge a connection to a workload."""
        destination = self.destination(dst)
        layers = destination.layers
        if not layers:
            return self._gate(destination, facts) or _NO_POLICY
        peer = peer_of(facts, self.trust_domains)
        verdict = self._gate(destination, facts) or _judge(layers, peer)
        audited = tuple(ref for layer in layers for ref in layer.audit.all(peer))
        dry_run = _dry_run(layers, peer)
        if not audited and not dry_run:
            return verdict
        return Verdict(
            allowed=verdict.allowed,
            decision=verdict.decision,
            decided_by=verdict.decided_by,
            audited=audited,
            dry_run=dry_run,
        )

    def applicable(self, dst: Workload) -> Layers[AuthorizationPolicy]:
        """Collect the authorization policies that apply to a workload."""
        return self._authorization.of(dst)

    def destination(self, dst: Workload) -> Destination:
        """Return what policy says about a workload."""
        known = self._destinations.get(dst.uid)
        if known is not None and known.workload is dst:
            return known
        layers = self.applicable(dst).ordered()
        compiled = tuple(self._cache.layer(layer) for layer in layers if layer)
        mtls = effective_mtls(self._authentication.of(dst))
        known = self._destinations[dst.uid] = Destination(dst, compiled, mtls)
        return known

    def waypoint_identities(self, waypoint: str) -> frozenset[SpiffeId]:
        """Identities of the pods of a waypoint (`<namespace>/<name>`); empty if there are none."""
        return self._waypoints.get(waypoint, frozenset())

    def _gate(self, destination: Destination, facts: ConnectionFacts) -> Verdict | None:
        """Judge what needs no rule: missing identity, and a waypoint that was gone round."""
        if facts.principal is None:
            strict, decided_by = destination.mtls.strict(facts.dst.port)
            if strict:
                return _deny(Decision.STRICT_MTLS, decided_by)
        waypoint = destination.workload.waypoint
        if waypoint is not None and facts.principal not in self.waypoint_identities(waypoint):
            return _deny(Decision.WAYPOINT_REQUIRED, waypoint_ref(waypoint))
        return None


_NO_POLICY = Verdict(allowed=True, decision=Decision.NO_POLICY)


def waypoint_ref(waypoint: str) -> RuleRef:
    """Name a waypoint as what decided."""
    return RuleRef(kind="Waypoint", policy=PolicyKey(waypoint))


def _deny(decision: Decision, decided_by: RuleRef | None) -> Verdict:
    return Verdict(allowed=False, decision=decision, decided_by=decided_by)


def _judge(layers: tuple[Layer, ...], peer: Peer) -> Verdict:
    for layer in layers:
        if hit := layer.deny.first(peer):
            return _deny(Decision.DENY_RULE, hit)
    for layer in layers:
        if hit := layer.deny_l7.first(peer):
            return _deny(Decision.NEEDS_L7, hit)
    if not any(layer.allow_policies for layer in layers):
        return _NO_POLICY
    for layer in layers:
        if hit := layer.allow.first(peer):
            return Verdict(allowed=True, decision=Decision.ALLOW_RULE, decided_by=hit)
    for layer in layers:
        if hit := layer.allow_l7.first(peer):
            return _deny(Decision.NEEDS_L7, hit)
    narrowest = next(layer for layer in reversed(layers) if layer.allow_policies)
    return _deny(Decision.NO_ALLOW_MATCH, narrowest.allow_policies[0])


def _dry_run(layers: tuple[Layer, ...], peer: Peer) -> tuple[RuleRef, ...]:
    """Name the dry-run policies that would have denied.

    A dry-run ALLOW policy would deny only where no ALLOW policy is enforced (another one can but
    widen) and no other dry-run ALLOW policy matches.
    """
    denying = tuple(ref for layer in layers for ref in layer.dry_deny.all(peer))
    enforced = any(layer.allow_policies for layer in layers)
    if enforced or any(layer.dry_allow.first(peer) for layer in layers):
        return denying
    return denying + tuple(ref for layer in layers for ref in layer.dry_allow_policies)


def _waypoint_identities(snapshot: MeshSnapshot) -> dict[str, frozenset[SpiffeId]]:
    found: dict[str, set[SpiffeId]] = {}
    for workload in snapshot.workloads.values():
        name = workload.labels.get(WAYPOINT_LABEL)
        if name:
            found.setdefault(f"{workload.namespace}/{name}", set()).add(workload.identity)
    return {key: frozenset(identities) for key, identities in found.items()}
