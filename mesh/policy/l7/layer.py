"""The policies of one target, compiled: one rule list per meaning."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.model.policy import AuthorizationPolicy, PolicyAction, Rule
from mesh.policy.l7.filing import REQUEST_FILING
from mesh.policy.l7.match import Request, compile_request_rule
from mesh.policy.layer import policy_ref
from mesh.policy.rules import FiledRule, RuleList


class RequestLayer:
    """Compiled policies of one target. Immutable after construction.

    Attributes:
        custom: rules that want an external authorizer; providers: whom, by policy.
        deny_unsure, allow_unsure: rules with a field that nothing here can judge. What remains of
            them denies, or does not allow.
    """

    __slots__ = (
        "allow",
        "allow_policies",
        "allow_unsure",
        "audit",
        "custom",
        "deny",
        "deny_unsure",
        "dry_allow",
        "dry_allow_policies",
        "dry_deny",
        "policies",
        "providers",
    )

    def __init__(self, policies: Sequence[AuthorizationPolicy]) -> None:
        self.policies = tuple(policies)
        lists: dict[str, list[FiledRule[Request]]] = {}
        for policy in policies:
            for number, rule in enumerate(policy.rules):
                filed = FiledRule(policy_ref(policy, number), rule, compile_request_rule(rule))
                lists.setdefault(_list_of(policy, rule), []).append(filed)

        def rules(name: str) -> RuleList[Request]:
            return RuleList(lists.get(name, ()), REQUEST_FILING)

        self.custom = rules("custom")
        self.deny, self.deny_unsure = rules("deny"), rules("deny_unsure")
        self.allow, self.allow_unsure = rules("allow"), rules("allow_unsure")
        self.audit = rules("audit")
        self.dry_deny, self.dry_allow = rules("dry_deny"), rules("dry_allow")
        allows = [policy for policy in policies if policy.action is PolicyAction.ALLOW]
        self.allow_policies = tuple(policy_ref(p) for p in allows if not p.dry_run)
        self.dry_allow_policies = tuple(policy_ref(p) for p in allows if p.dry_run)
        self.providers = {
            policy.key: policy.provider
            for policy in policies
            if policy.action is PolicyAction.CUSTOM
        }

    def holds(self, policies: Sequence[AuthorizationPolicy]) -> bool:
        """Say whether the layer was made of exactly these objects."""
        return len(policies) == len(self.policies) and all(
            own is other for own, other in zip(self.policies, policies, strict=True)
        )


def _list_of(policy: AuthorizationPolicy, rule: Rule) -> str:
    unsure = bool(rule.unsupported)
    match policy.action:
        case PolicyAction.ALLOW:
            kind = "allow_unsure" if unsure else "allow"
        case PolicyAction.DENY:
            kind = "deny_unsure" if unsure and not policy.dry_run else "deny"
        case PolicyAction.CUSTOM:
            if policy.dry_run:
                # Nobody is asked, so what the provider would say is not known.
                return "dry_custom"
            return "deny_unsure" if unsure else "custom"
        case PolicyAction.AUDIT:
            # A mark that may be wrong is noise.
            return "audit_unsure" if unsure else "audit"
    return f"dry_{kind}" if policy.dry_run else kind
