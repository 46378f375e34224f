"""Routes, reference grants and traffic policies of a snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mesh.model.codes import Code
from mesh.model.policy import PolicyKey
from mesh.model.routing import GrantKey, ReferenceGrant, Route, RouteKey
from mesh.model.snapshot import Severity
from mesh.model.traffic import TrafficPolicy
from mesh.sources.objects import SourceObject
from mesh.state.context import Context


@dataclass(frozen=True, slots=True)
class Routing:
    """What the L7 data path reads besides services and endpoints."""

    routes: dict[RouteKey, Route] = field(default_factory=dict)
    grants: dict[GrantKey, ReferenceGrant] = field(default_factory=dict)
    traffic_policies: dict[PolicyKey, TrafficPolicy] = field(default_factory=dict)


def read_routing(objects: Iterable[SourceObject], context: Context) -> Routing:
    """Collect all three kinds; report what of a route cannot be done."""
    found = Routing()
    for item in objects:
        body = item.body
        if isinstance(body, Route):
            found.routes[body.key] = body
            _report(item, body, context)
        elif isinstance(body, ReferenceGrant):
            found.grants[body.key] = body
        elif isinstance(body, TrafficPolicy):
            found.traffic_policies[body.key] = body
    return found


def _report(item: SourceObject, route: Route, context: Context) -> None:
    if not any(parent.is_service for parent in route.parents):
        message = (
            "spec.parentRefs names no Service (group: '', kind: Service): the mesh does nothing"
            " with this route"
        )
        context.report(item, Code.NO_SERVICE_PARENT, message, Severity.WARNING)
    for rule in route.rules:
        for problem in rule.problems:
            effect = "the rule is dropped" if problem.in_match else "its requests are answered 500"
            message = f"{problem.field}: {problem.message}: {effect}"
            code = Code.RULE_DROPPED if problem.in_match else Code.RULE_FAILS
            context.report(item, code, message, Severity.WARNING)
