"""The way to a decision: every object looked at, in order, and why it did or did not match.

For people (`meshnode authz check`), so it looks at every rule one by one; the verdict itself is
the engine's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from mesh.model.address import IPAddress, SocketAddress
from mesh.model.policy import AuthorizationPolicy, L4Match, PolicyAction, PolicyScope, Rule
from mesh.model.verdict import ConnectionFacts, RuleRef, Verdict
from mesh.model.workload import Workload
from mesh.policy.engine import PolicyIndex, waypoint_ref
from mesh.policy.layer import policy_ref
from mesh.policy.match import Peer, compile_match, compile_rule, peer_of


class Outcome(StrEnum):
    """What came of looking at an object or a rule."""

    MATCHED = "matched"
    NOT_MATCHED = "not matched"
    NEEDS_L7 = "needs L7"
    """Its L4 part matches; the rest cannot be decided here."""
    UNSUPPORTED = "unsupported"
    """What can be decided matches; the rest no point of ours can decide."""
    EMPTY = "no rules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule, or an object that has none.

    Attributes:
        action: ALLOW, DENY, AUDIT, CUSTOM or, for PeerAuthentication, its mode.
        detail: which field did not fit, or what the outcome means.
        decided: the verdict names it.
    """

    ref: RuleRef
    scope: PolicyScope | None
    action: str
    outcome: Outcome
    detail: str
    dry_run: bool = False
    decided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A verdict and the way to it."""

    facts: ConnectionFacts
    steps: tuple[Step, ...]
    verdict: Verdict


_ORDER = (PolicyAction.DENY, PolicyAction.CUSTOM, PolicyAction.ALLOW, PolicyAction.AUDIT)


def explain(index: PolicyIndex, src: Workload | None, dst: Workload, port: int) -> Explanation:
    """Explain a connection from a workload, or (None) from an unknown plaintext peer."""
    dst_ip, src_ip = _addresses(src, dst)
    facts = ConnectionFacts(
        principal=src.identity if src is not None and src.enrolled else None,
        src=SocketAddress(src_ip, 0),
        dst=SocketAddress(dst_ip, port),
    )
    return explain_facts(index, dst, facts)


def explain_facts(index: PolicyIndex, dst: Workload, facts: ConnectionFacts) -> Explanation:
    """Explain the decision about a connection."""
    verdict = index.evaluate(dst, facts)
    peer = peer_of(facts, index.trust_domains)
    policies = [item for layer in index.applicable(dst).ordered() for item in layer]
    steps = [*_mtls_step(index, dst, facts), *_waypoint_step(index, dst, facts)]
    for action in _ORDER:
        for policy in policies:
            if policy.action is action:
                steps += _policy_steps(policy, peer)
    return Explanation(
        facts=facts,
        steps=tuple(marked_step(step, verdict.decided_by) for step in steps),
        verdict=verdict,
    )


def marked_step(step: Step, decided_by: RuleRef | None) -> Step:
    if decided_by is None or step.ref.policy != decided_by.policy or step.dry_run:
        return step
    same_rule = decided_by.rule is None or step.ref.rule == decided_by.rule
    decided = same_rule and step.ref.kind == decided_by.kind
    return replace(step, decided=True) if decided else step


def _addresses(src: Workload | None, dst: Workload) -> tuple[IPAddress, IPAddress]:
    """Take the first pair of one family; the unspecified address where there is none."""
    unknown: dict[int, IPAddress] = {4: IPv4Address(0), 6: IPv6Address(0)}
    for dst_ip in dst.addresses:
        for src_ip in src.addresses if src is not None else ():
            if src_ip.version == dst_ip.version:
                return dst_ip, src_ip
    dst_ip = dst.addresses[0] if dst.addresses else unknown[4]
    return dst_ip, unknown[dst_ip.version]


def _mtls_step(index: PolicyIndex, dst: Workload, facts: ConnectionFacts) -> list[Step]:
    mtls = index.destination(dst).mtls
    mode, ref = mtls.at(facts.dst.port)
    if ref is None:
        return []
    strict, _ = mtls.strict(facts.dst.port)
    refused = strict and facts.principal is None
    peer = "has no verified identity" if facts.principal is None else "has a verified identity"
    return [
        Step(
            ref=ref,
            scope=None,
            action=mode,
            outcome=Outcome.MATCHED if refused else Outcome.NOT_MATCHED,
            detail=f"the peer {peer}",
        )
    ]


def _waypoint_step(index: PolicyIndex, dst: Workload, facts: ConnectionFacts) -> list[Step]:
    if dst.waypoint is None:
        return []
    identities = index.waypoint_identities(dst.waypoint)
    refused = facts.principal not in identities
    detail = "the peer is the waypoint"
    if refused:
        known = ", ".join(sorted(item.principal for item in identities))
        detail = f"only {known} may connect" if known else "the waypoint has no pods"
    return [
        Step(
            ref=waypoint_ref(dst.waypoint),
            scope=None,
            action="WAYPOINT",
            outcome=Outcome.MATCHED if refused else Outcome.NOT_MATCHED,
            detail=detail,
        )
    ]


def _policy_steps(policy: AuthorizationPolicy, peer: Peer) -> list[Step]:
    if not policy.rules:
        return [empty_step(policy)]
    steps = []
    for number, rule in enumerate(policy.rules):
        if not compile_rule(rule).holds(peer):
            steps.append(
                policy_step(
                    policy,
                    number,
                    Outcome.NOT_MATCHED,
                    why_not(rule, lambda match: _failed(match, peer)),
                )
            )
        elif rule.l7_fields:
            steps.append(policy_step(policy, number, Outcome.NEEDS_L7, ", ".join(rule.l7_fields)))
        else:
            steps.append(policy_step(policy, number, Outcome.MATCHED, ""))
    return steps


def empty_step(policy: AuthorizationPolicy) -> Step:
    """Make the step of a policy without rules."""
    detail = "it allows nothing" if policy.action is PolicyAction.ALLOW else "it does nothing"
    return policy_step(policy, None, Outcome.EMPTY, detail)


def policy_step(
    policy: AuthorizationPolicy, number: int | None, outcome: Outcome, detail: str
) -> Step:
    """Make the step of one rule, or of a policy without rules."""
    return Step(
        ref=policy_ref(policy, number),
        scope=policy.scope,
        action=policy.action,
        outcome=outcome,
        detail=detail,
        dry_run=policy.dry_run,
    )


def why_not(rule: Rule, failing: Callable[[L4Match], str]) -> str:
    """Name the fields that keep a rule from matching; `failing` names that of one match."""
    for clause, matches in (("from", rule.sources), ("to", rule.operations)):
        failed = [failing(match) for match in matches]
        if failed and all(failed):
            return "; ".join(f"{clause}[{number}]: {name}" for number, name in enumerate(failed))
    for number, match in enumerate(rule.conditions):
        name = failing(match)
        if name:
            return f"when[{number}]: {name}"
    return ""


def _failed(match: L4Match, peer: Peer) -> str:
    return next((test.name for test in compile_match(match) if not test.holds(peer)), "")
