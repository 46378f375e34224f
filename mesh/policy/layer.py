"""The policies of one scope, compiled: one rule list per meaning.

Rules that need L7 are kept apart. At a point without L7 their L4 part decides: in a DENY or
CUSTOM policy it denies, in an ALLOW policy it never allows. Both fail closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from mesh.model.policy import AuthorizationPolicy, L4Match, PolicyAction
from mesh.model.verdict import RuleRef
from mesh.policy.match import Peer, compile_rule
from mesh.policy.rules import PEER_FILING, FiledRule, RuleList


def policy_ref(policy: AuthorizationPolicy, rule: int | None = None) -> RuleRef:
    """Name a policy, or one of its rules."""
    return RuleRef(kind="AuthorizationPolicy", policy=policy.key, rule=rule)


class Layer:
    """Compiled policies of one scope. Immutable after construction.

    Attributes:
        deny: rules that deny; deny_unsure: rules that would need L7 (or a provider) to say so.
        allow: rules that allow; allow_unsure: rules that might, had we L7.
        audit: rules that only leave a mark.
        dry_deny: rules of dry-run policies that would deny; dry_allow: those that would allow.
        allow_policies, dry_allow_policies: the ALLOW policies, enforced and dry-run.
        named_ports: every port that a rule names; uses_src_ips, uses_dst_ips: some rule looks
            at addresses.
    """

    __slots__ = (
        "allow",
        "allow_policies",
        "allow_unsure",
        "audit",
        "deny",
        "deny_unsure",
        "dry_allow",
        "dry_allow_policies",
        "dry_deny",
        "named_ports",
        "policies",
        "uses_dst_ips",
        "uses_src_ips",
    )

    def __init__(self, policies: Sequence[AuthorizationPolicy]) -> None:
        self.policies = tuple(policies)
        lists: dict[str, list[FiledRule[Peer]]] = {}
        for policy in policies:
            for number, rule in enumerate(policy.rules):
                name = _list_of(policy, bool(rule.l7_fields))
                filed = FiledRule(policy_ref(policy, number), rule, compile_rule(rule))
                lists.setdefault(name, []).append(filed)
        self.deny = RuleList(lists.get("deny", ()), PEER_FILING)
        self.deny_unsure = RuleList(lists.get("deny_unsure", ()), PEER_FILING)
        self.allow = RuleList(lists.get("allow", ()), PEER_FILING)
        self.allow_unsure = RuleList(lists.get("allow_unsure", ()), PEER_FILING)
        self.audit = RuleList(lists.get("audit", ()), PEER_FILING)
        self.dry_deny = RuleList(lists.get("dry_deny", ()), PEER_FILING)
        self.dry_allow = RuleList(lists.get("dry_allow", ()), PEER_FILING)
        allows = [policy for policy in policies if policy.action is PolicyAction.ALLOW]
        self.allow_policies = tuple(policy_ref(p) for p in allows if not p.dry_run)
        self.dry_allow_policies = tuple(policy_ref(p) for p in allows if p.dry_run)
        matches = list(_matches(policies))
        self.named_ports = frozenset(
            port for match in matches for port in match.dst_ports | match.not_dst_ports
        )
        self.uses_src_ips = any(match.src_ips or match.not_src_ips for match in matches)
        self.uses_dst_ips = any(match.dst_ips or match.not_dst_ips for match in matches)

    def holds(self, policies: Sequence[AuthorizationPolicy]) -> bool:
        """Say whether the layer was made of exactly these objects."""
        return len(policies) == len(self.policies) and all(
            own is other for own, other in zip(self.policies, policies, strict=True)
        )


def _list_of(policy: AuthorizationPolicy, needs_l7: bool) -> str:
    match policy.action:
        case PolicyAction.ALLOW:
            if policy.dry_run:
                return "dry_allow_unsure" if needs_l7 else "dry_allow"
            return "allow_unsure" if needs_l7 else "allow"
        case PolicyAction.DENY | PolicyAction.CUSTOM:
            if policy.dry_run:
                return "dry_deny"
            unsure = needs_l7 or policy.action is PolicyAction.CUSTOM
            return "deny_unsure" if unsure else "deny"
        case PolicyAction.AUDIT:
            # Whether an L7 rule matches is unknown here, and a mark that may be wrong is noise.
            return "audit_l7" if needs_l7 else "audit"


def _matches(policies: Iterable[AuthorizationPolicy]) -> Iterable[L4Match]:
    for policy in policies:
        for rule in policy.rules:
            yield from rule.sources
            yield from rule.operations
            yield from rule.conditions


class Compiled(Protocol):
    """Policies of one scope in compiled form."""

    def holds(self, policies: Sequence[AuthorizationPolicy]) -> bool:
        """Say whether it was made of exactly these objects."""
        ...


AnyLayer = TypeVar("AnyLayer", bound=Compiled)


class LayerCache(Generic[AnyLayer]):
    """Compiled layers by their policies, so that destinations (and snapshots) share them."""

    __slots__ = ("_build", "_layers", "_older")

    def __init__(
        self,
        build: Callable[[Sequence[AuthorizationPolicy]], AnyLayer],
        older: LayerCache[AnyLayer] | None = None,
    ) -> None:
        self._build = build
        self._layers: dict[tuple[str, ...], AnyLayer] = {}
        self._older = older._layers if older else {}

    def layer(self, policies: Sequence[AuthorizationPolicy]) -> AnyLayer:
        """Return the layer of these policies; compile it if no older one is of the same objects."""
        key = tuple(policy.key for policy in policies)
        known = self._layers.get(key) or self._older.get(key)
        if known is None or not known.holds(policies):
            known = self._build(policies)
        self._layers[key] = known
        return known
