"""From rules to a verdict, the same for connections and requests: DENY, unsure, ALLOW.

Within a step the widest scope is named first, then the smallest `<namespace>/<name>`, then the
first rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from mesh.model.verdict import Decision, RuleRef, Verdict
from mesh.policy.match import Facts
from mesh.policy.rules import RuleList


class JudgedLayer(Protocol[Facts]):
    """Compiled policies of one scope. `*_unsure`: rules that this point cannot decide."""

    allow: RuleList[Facts]
    allow_policies: tuple[RuleRef, ...]
    allow_unsure: RuleList[Facts]
    audit: RuleList[Facts]
    deny: RuleList[Facts]
    deny_unsure: RuleList[Facts]
    dry_allow: RuleList[Facts]
    dry_allow_policies: tuple[RuleRef, ...]
    dry_deny: RuleList[Facts]


NO_POLICY = Verdict(allowed=True, decision=Decision.NO_POLICY)


def deny(decision: Decision, decided_by: RuleRef | None) -> Verdict:
    """Deny, and say what decided."""
    return Verdict(allowed=False, decision=decision, decided_by=decided_by)


def judge(layers: Sequence[JudgedLayer[Facts]], facts: Facts, unsure: Decision) -> Verdict:
    """Judge facts; `unsure` is the decision where a rule cannot be decided here."""
    for layer in layers:
        if hit := layer.deny.first(facts):
            return deny(Decision.DENY_RULE, hit)
    for layer in layers:
        if hit := layer.deny_unsure.first(facts):
            return deny(unsure, hit)
    narrowest = None
    for layer in layers:
        if layer.allow_policies:
            narrowest = layer
    if narrowest is None:
        return NO_POLICY
    for layer in layers:
        if hit := layer.allow.first(facts):
            return Verdict(allowed=True, decision=Decision.ALLOW_RULE, decided_by=hit)
    for layer in layers:
        if hit := layer.allow_unsure.first(facts):
            return deny(unsure, hit)
    return deny(Decision.NO_ALLOW_MATCH, narrowest.allow_policies[0])


def marked(verdict: Verdict, layers: Sequence[JudgedLayer[Facts]], facts: Facts) -> Verdict:
    """Add what only leaves a mark: AUDIT rules that match, dry-run policies that would deny."""
    audited = tuple(ref for layer in layers for ref in layer.audit.all(facts))
    dry_run = _dry_run(layers, facts)
    return replace(verdict, audited=audited, dry_run=dry_run) if audited or dry_run else verdict


def _dry_run(layers: Sequence[JudgedLayer[Facts]], facts: Facts) -> tuple[RuleRef, ...]:
    """Name the dry-run policies that would have denied.

    A dry-run ALLOW policy would deny only where no ALLOW policy is enforced (another one can but
    widen) and no other dry-run ALLOW policy matches.
    """
    denying = tuple(ref for layer in layers for ref in layer.dry_deny.all(facts))
    enforced = any(layer.allow_policies for layer in layers)
    if enforced or any(layer.dry_allow.first(facts) for layer in layers):
        return denying
    return denying + tuple(ref for layer in layers for ref in layer.dry_allow_policies)
