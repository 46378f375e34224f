"""Which routes rule which service ports, and for whom.

A route of the service's own namespace (a producer route) holds for every caller; one of another
namespace (a consumer route) only for callers from there, and for them it replaces the producer's
(GEP-1324). Each such group is judged by itself; within it one kind of route wins (GEP-1294).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.model.routing import ParentRef, Route, RouteKind
from mesh.model.workload import Service, ServiceKey

NO_MATCHING_PARENT = "NoMatchingParent"


@dataclass(frozen=True, slots=True, order=True)
class GroupKey:
    """A service port, and the namespace whose callers it is about (empty = every caller)."""

    service: ServiceKey
    port: int
    consumer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a parentRef attaches to nothing: an Accepted condition's reason, and words."""

    reason: str
    message: str


def find_groups(
    route: Route, parent: ParentRef, services: Mapping[ServiceKey, Service]
) -> tuple[GroupKey, ...] | Refusal:
    """Find the groups that a parentRef joins."""
    name = f"{parent.kind} {parent.namespace}/{parent.name}"
    if not parent.is_service:
        message = f"{name}: a route of a mesh attaches to a Service"
        return Refusal(reason=NO_MATCHING_PARENT, message=message)
    key = ServiceKey(f"{parent.namespace}/{parent.name}")
    service = services.get(key)
    if service is None:
        return Refusal(reason=NO_MATCHING_PARENT, message=f"{name} does not exist")
    ports = [
        port.port
        for port in service.ports
        if parent.port in (None, port.port) and parent.section_name in (None, port.name)
    ]
    if not ports:
        wanted = [f"port {parent.port}"] if parent.port is not None else []
        wanted += [f"sectionName {parent.section_name!r}"] if parent.section_name else []
        message = f"{name} has no port with {' and '.join(wanted) or 'TCP'}"
        return Refusal(reason=NO_MATCHING_PARENT, message=message)
    consumer = "" if route.namespace == parent.namespace else route.namespace
    return tuple(GroupKey(key, port, consumer) for port in ports)


_KINDS = tuple(RouteKind)


def settle_groups(
    routes: Iterable[Route], services: Mapping[ServiceKey, Service]
) -> dict[GroupKey, tuple[Route, ...]]:
    """Collect the routes of each group: those of its winning kind, oldest first."""
    groups: dict[GroupKey, dict[str, Route]] = {}
    for route in routes:
        for parent in route.parents:
            found = find_groups(route, parent, services)
            if not isinstance(found, Refusal):
                for key in found:
                    groups.setdefault(key, {})[route.key] = route
    settled = {}
    for key, members in groups.items():
        winner = min((route.kind for route in members.values()), key=_KINDS.index)
        chosen = [route for route in members.values() if route.kind is winner]
        settled[key] = tuple(sorted(chosen, key=age))
    return settled


def age(route: Route) -> tuple[str, str, str]:
    """Sort key: oldest first, then by name (Gateway API conflict rules)."""
    return route.created, route.namespace, route.name
