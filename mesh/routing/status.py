"""Conditions of routes, as data: the controller writes them to Kubernetes, the CLI shows them.

Reasons are the Gateway API's (RouteConditionReason); `Conflicted` is GEP-1294's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.model.routing import ParentRef, Route, RouteKey
from mesh.model.snapshot import MeshSnapshot
from mesh.routing.attach import GroupKey, Refusal, find_groups, settle_groups
from mesh.routing.rule import BackendFailure, BackendResolver
from mesh.routing.table import make_resolver


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """metav1.Condition without its time."""

    type: str
    status: bool
    reason: str
    message: str
    observed_generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentStatus:
    """status.parents[]: the conditions towards one parentRef."""

    parent: ParentRef
    conditions: tuple[Condition, ...]

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type."""
        return next((item for item in self.conditions if item.type == kind), None)


def route_statuses(
    snapshot: MeshSnapshot, *, grants_required: bool = False
) -> Mapping[RouteKey, tuple[ParentStatus, ...]]:
    """Compute the conditions of every route, towards the Services it attaches to.

    Other parents (a Gateway) belong to other controllers, who write their own.
    """
    resolver = make_resolver(snapshot, grants_required=grants_required)
    settled = settle_groups(snapshot.routes.values(), snapshot.services)
    return {
        key: _statuses(route, snapshot, resolver, settled) for key, route in snapshot.routes.items()
    }


def _statuses(
    route: Route,
    snapshot: MeshSnapshot,
    resolver: BackendResolver,
    settled: Mapping[GroupKey, tuple[Route, ...]],
) -> tuple[ParentStatus, ...]:
    resolved = _resolved_refs(route, resolver)
    partial = _partially_invalid(route)
    found = []
    for parent in (item for item in route.parents if item.is_service):
        groups = find_groups(route, parent, snapshot.services)
        accepted = _accepted(route, groups, settled)
        conditions = [accepted, resolved]
        if accepted.status and partial is not None:
            conditions.append(partial)
        found.append(ParentStatus(parent=parent, conditions=tuple(conditions)))
    return tuple(found)


def _condition(route: Route, kind: str, reason: str, message: str, *, status: bool) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        observed_generation=route.generation,
    )


def _accepted(
    route: Route,
    groups: tuple[GroupKey, ...] | Refusal,
    settled: Mapping[GroupKey, tuple[Route, ...]],
) -> Condition:
    if isinstance(groups, Refusal):
        return _condition(route, "Accepted", groups.reason, groups.message, status=False)
    broken = [rule for rule in route.rules if rule.problems]
    if route.rules and len(broken) == len(route.rules):
        problem = broken[0].problems[0]
        message = f"no rule can be used: {problem.field}: {problem.message}"
        return _condition(route, "Accepted", problem.reason, message, status=False)
    lost = [key for key in groups if route not in settled[key]]
    if lost:
        winner = settled[lost[0]][0]
        ports = ", ".join(str(key.port) for key in lost)
        message = f"{winner.kind} {winner.namespace}/{winner.name} rules port {ports}"
        if len(lost) == len(groups):
            return _condition(route, "Accepted", "Conflicted", message, status=False)
        return _condition(route, "Accepted", "Accepted", f"but {message}", status=True)
    return _condition(route, "Accepted", "Accepted", "the route is in force", status=True)


def _partially_invalid(route: Route) -> Condition | None:
    problems = [problem for rule in route.rules for problem in rule.problems]
    if not problems:
        return None
    # The standard wants these two beginnings and no other (RouteConditionPartiallyInvalid).
    dropped = any(problem.in_match for problem in problems)
    begin = "Dropped Rule" if dropped else "Fall Back to status 500"
    message = f"{begin}: " + "; ".join(f"{item.field}: {item.message}" for item in problems)
    return _condition(route, "PartiallyInvalid", problems[0].reason, message, status=True)


_WORDS = {
    BackendFailure.INVALID_KIND: "is of a kind that cannot be a backend: want a Service",
    BackendFailure.NOT_FOUND: "does not exist, or has no such port",
    BackendFailure.NOT_PERMITTED: "is in another namespace, and no ReferenceGrant permits it",
    BackendFailure.UNSUPPORTED_PROTOCOL: "speaks a protocol that the route cannot",
}


def _resolved_refs(route: Route, resolver: BackendResolver) -> Condition:
    failures = []
    for number, rule in enumerate(route.rules):
        for index, ref in enumerate(rule.backends):
            failure = resolver.backend(route, ref).failure
            if failure is not None:
                failures.append((failure, f"rules[{number}].backendRefs[{index}]", ref.target))
        filters = (rule.filters, *(ref.filters for ref in rule.backends))
        for mirror in (mirror for item in filters for mirror in item.mirrors):
            result = resolver.mirror(route, mirror)
            if isinstance(result, BackendFailure):
                failures.append((result, f"rules[{number}] mirror", mirror.target))
    if not failures:
        reason = "ResolvedRefs"
        return _condition(route, reason, reason, "every backend exists", status=True)
    first = failures[0][0]
    message = "; ".join(
        f"{where}: {target.kind} {target.namespace}/{target.name} {_WORDS[failure]}"
        for failure, where, target in failures
    )
    return _condition(route, "ResolvedRefs", first, message, status=False)
