"""The way to a decision about a request: every rule looked at, and which field made it so.

For people (`meshnode authz check`); the verdict itself is the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.model.policy import AuthorizationPolicy, L4Match, PolicyAction
from mesh.model.verdict import Verdict
from mesh.policy.explain import Outcome, Step, empty_step, marked_step, policy_step, why_not
from mesh.policy.l7.engine import RequestIndex
from mesh.policy.l7.facts import AskProviders, RequestFacts
from mesh.policy.l7.match import (
    NamedTest,
    PathTest,
    Request,
    RequestTest,
    compile_request_match,
    compile_request_rule,
    request_of,
)
from mesh.policy.match import StringTest

_ORDER = (PolicyAction.CUSTOM, PolicyAction.DENY, PolicyAction.ALLOW, PolicyAction.AUDIT)
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestExplanation:
    """What came out, and the way to it.

    Attributes:
        asked: external authorizers to ask first, None without; verdict: what the rules say, once
            they agree.
    """

    asked: AskProviders | None
    verdict: Verdict
    steps: tuple[Step, ...]


def explain_request(index: RequestIndex, facts: RequestFacts) -> RequestExplanation:
    """Explain the decision about a request."""
    found = index.evaluate(facts)
    asked = found if isinstance(found, AskProviders) else None
    verdict = index.after_providers(facts) if isinstance(found, AskProviders) else found
    request = request_of(facts, index.trust_domains)
    policies = [item for layer in index.applicable(facts.service) for item in layer]
    steps = [
        step
        for action in _ORDER
        for policy in policies
        if policy.action is action
        for step in _policy_steps(policy, request)
    ]
    return RequestExplanation(
        asked=asked,
        verdict=verdict,
        steps=tuple(marked_step(step, verdict.decided_by) for step in steps),
    )


def _policy_steps(policy: AuthorizationPolicy, request: Request) -> list[Step]:
    if not policy.rules:
        return [empty_step(policy)]
    steps = []
    for number, rule in enumerate(policy.rules):
        if not compile_request_rule(rule).holds(request):
            detail = why_not(rule, lambda match: _failed(match, request))
            steps.append(policy_step(policy, number, Outcome.NOT_MATCHED, detail))
        elif rule.unsupported:
            detail = ", ".join(rule.unsupported)
            steps.append(policy_step(policy, number, Outcome.UNSUPPORTED, detail))
        else:
            fields = list(rule.l7_fields)
            if policy.action is PolicyAction.CUSTOM:
                fields.append(f"provider {policy.provider!r} is asked")
            steps.append(policy_step(policy, number, Outcome.MATCHED, ", ".join(fields)))
    return steps


def _failed(match: L4Match, request: Request) -> str:
    for test in compile_request_match(match):
        if not test.holds(request):
            return f"{test.name}{_shown(test, request)}"
    return ""


def _shown(test: RequestTest, request: Request) -> str:
    """Say what the request shows in the field of a test, where that is text."""
    match test:
        case NamedTest():
            values = request.named(test.kind, test.way)
        case StringTest():
            values = request.strings(test.field)
        case PathTest():
            values = request.strings("paths")
        case _:
            return ""
    shown = " or ".join(repr(value[:_MAX_SHOWN]) for value in values)
    return f" (the request has {shown or 'none'})"
