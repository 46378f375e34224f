"""The conditions of every object that we answer for, from one snapshot. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from mesh.model.codes import Code
from mesh.model.routing import GATEWAY_GROUP, ParentRef
from mesh.model.snapshot import MeshSnapshot, Problem, Severity
from mesh.model.traffic import TrafficPolicy
from mesh.model.workload import ServiceKey
from mesh.routing.policies import PolicyReason, PolicyTable, selects
from mesh.routing.status import Condition, ParentStatus, route_statuses


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectName:
    """Which object."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatus:
    """Towards our parents; empty takes our entries back."""

    generation: int
    parents: tuple[ParentStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """Two conditions; the generation is that of the version that was read."""

    conditions: tuple[Condition, ...]


POLICY_KINDS = (
    "AuthorizationPolicy",
    "PeerAuthentication",
    "RequestAuthentication",
    "TrafficPolicy",
)
_NOT_ENFORCED = {
    Code.TARGET_WITHOUT_WAYPOINT: "NoWaypoint",
    Code.RULE_NEEDS_WAYPOINT: "NoWaypoint",
    Code.NEEDS_TARGET: "NeedsTarget",
    Code.UNKNOWN_PROVIDER: "UnknownProvider",
    Code.NO_KEY: "NoKey",
}


def route_status(
    snapshot: MeshSnapshot, waypoints: Container[str] = ()
) -> dict[ObjectName, RouteStatus]:
    """The status of every route.

    Args:
        waypoints: Gateways (`<namespace>/<name>`) that are ours to answer for.
    """
    found: dict[ObjectName, RouteStatus] = {}
    for key, parents in route_statuses(snapshot).items():
        route = snapshot.routes[key]
        wrong = [p for p in route.parents if _is_gateway(p) and _path(p) in waypoints]
        name = ObjectName(kind=str(route.kind), namespace=route.namespace, name=route.name)
        found[name] = RouteStatus(
            generation=route.generation,
            parents=(*parents, *(_refused(parent, route.generation) for parent in wrong)),
        )
    return found


def _is_gateway(parent: ParentRef) -> bool:
    return (parent.group, parent.kind) == (GATEWAY_GROUP, "Gateway")


def _path(parent: ParentRef) -> str:
    return f"{parent.namespace}/{parent.name}"


def _refused(parent: ParentRef, generation: int) -> ParentStatus:
    message = "a waypoint's routes attach to the Services behind it (GEP-1324)"
    words = (("Accepted", False, "NotAllowedByListeners", message),)
    return ParentStatus(
        parent=parent, conditions=tuple(condition(*word, generation) for word in words)
    )


def policy_status(snapshot: MeshSnapshot) -> dict[ObjectName, PolicyStatus]:
    """The status of every policy, also of those that cannot be read."""
    problems = _by_subject(snapshot.problems)
    names = {
        "AuthorizationPolicy": snapshot.policies,
        "PeerAuthentication": snapshot.peer_authentications,
        "RequestAuthentication": snapshot.request_authentications,
        "TrafficPolicy": snapshot.traffic_policies,
    }
    found: dict[ObjectName, PolicyStatus] = {}
    for kind, policies in names.items():
        for key in policies:
            namespace, _, name = key.partition("/")
            found[ObjectName(kind=kind, namespace=namespace, name=name)] = _judged(
                problems.get(f"{kind} {key}", [])
            )
    for key, statuses in PolicyTable.compile(snapshot).statuses.items():
        refused = [one for one in statuses if one.reason is not PolicyReason.ACCEPTED]
        namespace, _, name = key.partition("/")
        if refused:
            found[ObjectName(kind="TrafficPolicy", namespace=namespace, name=name)] = _two(
                (False, str(refused[0].reason), "; ".join(one.message for one in refused)),
                (False, "Invalid", "it is not accepted"),
            )
        elif not _has_waypoint(snapshot, snapshot.traffic_policies[key]):
            message = "nothing that it is about has a waypoint: it does nothing"
            found[ObjectName(kind="TrafficPolicy", namespace=namespace, name=name)] = _two(
                (True, "Accepted", "it is in force"), (False, "NoWaypoint", message)
            )
    for subject, items in problems.items():
        kind, _, path = subject.partition(" ")
        namespace, _, name = path.partition("/")
        unread = [one for one in items if one.code in (None, Code.UNREADABLE)]
        # Without a name it is about the kind as a whole.
        if kind in POLICY_KINDS and unread and name:
            found[ObjectName(kind=kind, namespace=namespace, name=name)] = _two(
                (False, "Invalid", unread[0].message), (False, "Invalid", "it is not accepted")
            )
    return found


def _has_waypoint(snapshot: MeshSnapshot, policy: TrafficPolicy) -> bool:
    """Whether a target or a pod has one; of routes and Gateways that is not asked here."""
    if policy.selector is not None:
        pods = [pod for pod in snapshot.workloads.values() if selects(policy, pod)]
        return not pods or any(pod.waypoint is not None for pod in pods)
    if any(target.kind != "Service" for target in policy.targets):
        return True
    keys = [ServiceKey(f"{policy.namespace}/{target.name}") for target in policy.targets]
    known = [snapshot.services[key] for key in keys if key in snapshot.services]
    return not known or any(service.waypoint is not None for service in known)


def _judged(problems: list[Problem]) -> PolicyStatus:
    missing = [one for one in problems if one.code is Code.TARGET_MISSING]
    if missing:
        return _two(
            (False, "TargetNotFound", missing[0].message),
            (False, "Invalid", "it is not accepted"),
        )
    weak = [one for one in problems if one.code in _NOT_ENFORCED]
    errors = [one for one in problems if one.severity is Severity.ERROR and one not in weak]
    if errors:
        return _two(
            (False, "Invalid", "; ".join(one.message for one in errors)),
            (False, "Invalid", "it is not accepted"),
        )
    accepted = (True, "Accepted", "it is in force")
    if weak:
        reason = _NOT_ENFORCED[weak[0].code or Code.NEEDS_TARGET]
        return _two(accepted, (False, reason, "; ".join(one.message for one in weak)))
    return _two(accepted, (True, "Programmed", "every node enforces it"))


_Word = tuple[bool, str, str]


def _two(accepted: _Word, programmed: _Word) -> PolicyStatus:
    return PolicyStatus(
        conditions=(condition("Accepted", *accepted), condition("Programmed", *programmed))
    )


def condition(kind: str, status: bool, reason: str, message: str, generation: int = 0) -> Condition:
    """A condition in a row."""
    return Condition(
        type=kind, status=status, reason=reason, message=message, observed_generation=generation
    )


def _by_subject(problems: Iterable[Problem]) -> Mapping[str, list[Problem]]:
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.subject, []).append(problem)
    return found


SUPPORTED_FEATURES = (
    "GRPCRoute",
    "HTTPRoute",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
)
"""GatewayClass.status.supportedFeatures: sorted, as the standard wants."""
