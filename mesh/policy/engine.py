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
from mesh.policy.judge import NO_POLICY, deny, judge, marked
from mesh.policy.layer import Layer, LayerCache
from mesh.policy.match import TrustDomains, peer_of
from mesh.policy.scope import (
    EffectiveMtls,
    Layers,
    authentication_scopes,
    authorization_scopes,
    effective_mtls,
)


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
        self._cache: LayerCache[Layer] = LayerCache(Layer, previous._cache if previous else None)
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
            return self._gate(destination, facts) or NO_POLICY
        peer = peer_of(facts, self.trust_domains)
        verdict = self._gate(destination, facts) or judge(layers, peer, Decision.NEEDS_L7)
        return marked(verdict, layers, peer)

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
                return deny(Decision.STRICT_MTLS, decided_by)
        waypoint = destination.workload.waypoint
        if waypoint is not None and facts.principal not in self.waypoint_identities(waypoint):
            return deny(Decision.WAYPOINT_REQUIRED, waypoint_ref(waypoint))
        return None


def waypoint_ref(waypoint: str) -> RuleRef:
    """Name a waypoint as what decided."""
    return RuleRef(kind="Waypoint", policy=PolicyKey(waypoint))


def _waypoint_identities(snapshot: MeshSnapshot) -> dict[str, frozenset[SpiffeId]]:
    return {
        name: frozenset(workload.identity for workload in workloads)
        for name, workloads in snapshot.waypoint_workloads.items()
    }
