"""Policies of a snapshot: mesh scope, and what cannot be decided where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mesh.jwt.keys import parse_key_set
from mesh.model.authentication import RequestAuthentication
from mesh.model.codes import Code
from mesh.model.policy import (
    AuthorizationPolicy,
    PeerAuthentication,
    PolicyAction,
    PolicyKey,
    PolicyScope,
    PolicyTarget,
    TargetKind,
)
from mesh.model.snapshot import MeshSettings, Severity
from mesh.model.workload import Service, ServiceKey
from mesh.sources.objects import SourceObject
from mesh.state.context import Context

Scoped = TypeVar("Scoped", AuthorizationPolicy, PeerAuthentication, RequestAuthentication)


@dataclass(frozen=True, slots=True)
class Policies:
    """All three kinds of policy."""

    authorization: dict[PolicyKey, AuthorizationPolicy] = field(default_factory=dict)
    peer: dict[PolicyKey, PeerAuthentication] = field(default_factory=dict)
    request: dict[PolicyKey, RequestAuthentication] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Mesh:
    """What policies are read against."""

    settings: MeshSettings
    services: Mapping[ServiceKey, Service]
    context: Context

    def warn(self, item: SourceObject, code: Code, message: str) -> None:
        self.context.report(item, code, message, Severity.WARNING)


def read_policies(
    objects: Iterable[SourceObject],
    settings: MeshSettings,
    services: Mapping[ServiceKey, Service],
    context: Context,
) -> Policies:
    """Read the policies, and report what of them nobody can enforce."""
    found, mesh = Policies(), _Mesh(settings, services, context)
    for item in objects:
        match item.body:
            case AuthorizationPolicy() as policy:
                found.authorization[policy.key] = _widened(policy, settings.root_namespace)
                _report_targets(item, policy.targets, mesh)
                _report_limits(item, policy, mesh)
            case PeerAuthentication() as policy:
                found.peer[policy.key] = _widened(policy, settings.root_namespace)
            case RequestAuthentication() as policy:
                found.request[policy.key] = _widened(policy, settings.root_namespace)
                _report_targets(item, policy.targets, mesh)
                _report_authentication(item, policy, mesh)
    return found


def _widened(policy: Scoped, root_namespace: str) -> Scoped:
    if policy.scope is PolicyScope.NAMESPACE and policy.namespace == root_namespace:
        return replace(policy, scope=PolicyScope.MESH)
    return policy


def _report_targets(item: SourceObject, targets: Iterable[PolicyTarget], mesh: _Mesh) -> None:
    root = mesh.settings.root_namespace
    for target in targets:
        if target.kind is TargetKind.GATEWAY_CLASS and item.namespace != root:
            message = f"{target} is a target for namespace {root} only: it is not enforced there"
            mesh.context.report(item, Code.TARGET_FORBIDDEN, message)
        elif target.kind is TargetKind.SERVICE_ENTRY:
            message = f"{target}: ServiceEntry is not supported: it is not enforced there"
            mesh.warn(item, Code.TARGET_UNSUPPORTED, message)
        elif target.kind is TargetKind.SERVICE:
            key = ServiceKey(f"{target.namespace}/{target.name}")
            service = mesh.services.get(key)
            if service is None:
                mesh.warn(item, Code.TARGET_MISSING, f"there is no {target}")
            elif service.waypoint is None:
                message = f"{target} has no waypoint: the policy is not enforced there"
                mesh.warn(item, Code.TARGET_WITHOUT_WAYPOINT, message)


def _report_limits(item: SourceObject, policy: AuthorizationPolicy, mesh: _Mesh) -> None:
    known = {provider.name for provider in mesh.settings.providers}
    if policy.action is PolicyAction.CUSTOM and policy.provider not in known:
        message = f"there is no provider {policy.provider!r} in MeshConfig: what it matches"
        mesh.context.report(item, Code.UNKNOWN_PROVIDER, f"{message} is denied")
    for number, rule in enumerate(policy.rules):
        if rule.unsupported:
            fields = ", ".join(rule.unsupported)
            message = (
                f"rules[{number}] cannot be judged anywhere ({fields}): {_EFFECT[policy.action]}"
            )
            mesh.context.report(item, Code.RULE_UNSUPPORTED, message)
    if policy.scope is PolicyScope.TARGET:
        return
    if policy.action is PolicyAction.CUSTOM:
        message = "action CUSTOM needs targetRefs: without, what its rules match is denied"
        mesh.warn(item, Code.NEEDS_TARGET, message)
        return
    for number, rule in enumerate(policy.rules):
        if rule.l7_fields:
            fields = ", ".join(rule.l7_fields)
            message = f"rules[{number}] needs a waypoint ({fields}): without one, "
            mesh.warn(item, Code.RULE_NEEDS_WAYPOINT, message + _EFFECT[policy.action])


_EFFECT = {
    PolicyAction.ALLOW: "the rule allows nothing",
    PolicyAction.DENY: "the rule denies whatever the rest of it matches",
    PolicyAction.CUSTOM: "the rule denies whatever the rest of it matches",
    PolicyAction.AUDIT: "the rule records nothing",
}


def _report_authentication(item: SourceObject, policy: RequestAuthentication, mesh: _Mesh) -> None:
    if policy.scope is not PolicyScope.TARGET:
        message = "tokens are verified by waypoints only: give it targetRefs"
        mesh.warn(item, Code.NEEDS_TARGET, message)
    for number, rule in enumerate(policy.rules):
        if not rule.jwks:
            continue
        keys = parse_key_set(rule.jwks.encode())
        for problem in keys.problems:
            mesh.warn(item, Code.BAD_KEY, f"jwtRules[{number}].jwks: {problem}")
        if not keys.keys:
            message = f"jwtRules[{number}].jwks holds no usable key: its tokens are all refused"
            mesh.context.report(item, Code.NO_KEY, message)
