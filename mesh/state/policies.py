"""Policies of a snapshot: mesh scope, and what cannot be decided without L7."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from mesh.model.policy import (
    AuthorizationPolicy,
    PeerAuthentication,
    PolicyAction,
    PolicyKey,
    PolicyScope,
)
from mesh.model.snapshot import Severity
from mesh.sources.objects import SourceObject
from mesh.state.workloads import Context

Scoped = TypeVar("Scoped", AuthorizationPolicy, PeerAuthentication)


def read_policies(
    objects: Iterable[SourceObject], root_namespace: str, context: Context
) -> tuple[dict[PolicyKey, AuthorizationPolicy], dict[PolicyKey, PeerAuthentication]]:
    """Read both kinds of policy."""
    policies: dict[PolicyKey, AuthorizationPolicy] = {}
    authentications: dict[PolicyKey, PeerAuthentication] = {}
    for item in objects:
        if isinstance(item.body, AuthorizationPolicy):
            policies[item.body.key] = _widened(item.body, root_namespace)
            _report_limits(item, item.body, context)
        elif isinstance(item.body, PeerAuthentication):
            authentications[item.body.key] = _widened(item.body, root_namespace)
    return policies, authentications


def _widened(policy: Scoped, root_namespace: str) -> Scoped:
    if policy.scope is PolicyScope.NAMESPACE and policy.namespace == root_namespace:
        return replace(policy, scope=PolicyScope.MESH)
    return policy


def _report_limits(item: SourceObject, policy: AuthorizationPolicy, context: Context) -> None:
    if policy.scope is PolicyScope.TARGET:
        message = "policies with targetRefs are enforced by waypoints only"
        context.report(item, message, Severity.WARNING)
        return
    if policy.action is PolicyAction.CUSTOM:
        message = "action CUSTOM needs a waypoint: without one, what its rules match is denied"
        context.report(item, message, Severity.WARNING)
        return
    effect = {
        PolicyAction.ALLOW: "the rule allows nothing",
        PolicyAction.DENY: "the rule denies whatever the rest of it matches",
        PolicyAction.AUDIT: "the rule records nothing",
    }[policy.action]
    for number, rule in enumerate(policy.rules):
        if rule.l7_fields:
            fields = ", ".join(rule.l7_fields)
            message = f"rules[{number}] needs a waypoint ({fields}): without one, {effect}"
            context.report(item, message, Severity.WARNING)
