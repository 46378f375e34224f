"""Conditions that are not as they should be, as problems for people: one line for each.

What is wrong inside of an object its reader has said already; here is what only all objects
together show: a parent that is not there, a backend that is missing, a lost conflict.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.model.routing import Route
from mesh.model.snapshot import MeshSnapshot, Problem, Severity
from mesh.routing.policies import PolicyReason, PolicyTable
from mesh.routing.status import ParentStatus, route_statuses


def routing_problems(snapshot: MeshSnapshot) -> tuple[Problem, ...]:
    """Routes and traffic policies that are not in force, or not wholly."""
    return (*_of_routes(snapshot), *_of_policies(snapshot))


def _of_routes(snapshot: MeshSnapshot) -> Iterator[Problem]:
    for key, parents in route_statuses(snapshot).items():
        route = snapshot.routes[key]
        unresolved = next((p.condition("ResolvedRefs") for p in parents), None)
        if unresolved is not None and not unresolved.status:
            text = f"{unresolved.reason}: {unresolved.message}; that share is answered 500"
            yield _problem(route, text, Severity.WARNING)
        for parent in parents:
            yield from _refused(route, parent)


def _refused(route: Route, status: ParentStatus) -> Iterator[Problem]:
    accepted, parent = status.condition("Accepted"), status.parent
    if accepted is None or any(rule.problems for rule in route.rules):
        return
    if not accepted.status:
        where = f"{parent.kind} {parent.namespace}/{parent.name}"
        text = f"not in force for {where}: {accepted.reason}: {accepted.message}"
        yield _problem(route, text, Severity.ERROR)


def _problem(route: Route, message: str, severity: Severity) -> Problem:
    subject = f"{route.kind} {route.namespace}/{route.name}"
    return Problem(where=subject, subject=subject, message=message, severity=severity)


def _of_policies(snapshot: MeshSnapshot) -> Iterator[Problem]:
    for key, statuses in PolicyTable.compile(snapshot).statuses.items():
        policy = snapshot.traffic_policies[key]
        subject = f"TrafficPolicy {policy.namespace}/{policy.name}"
        for status in statuses:
            if status.reason is not PolicyReason.ACCEPTED:
                yield Problem(
                    where=subject, subject=subject, message=f"{status.reason}: {status.message}"
                )
