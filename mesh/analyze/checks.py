"""What only shows when objects are seen together.

Each check yields findings of one concern. What the reducer reports already is not said twice.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator

from mesh.analyze.finding import Finding
from mesh.analyze.mesh import AnalyzedMesh
from mesh.model.codes import Code
from mesh.model.policy import AuthorizationPolicy, PolicyAction, PolicyScope
from mesh.model.routing import Route
from mesh.model.snapshot import MeshSnapshot, Severity
from mesh.model.traffic import TrafficPolicy
from mesh.model.workload import ServiceKey
from mesh.routing.policies import PolicyReason, PolicyTable, selects
from mesh.routing.status import ParentStatus, route_statuses
from mesh.sources.objects import ServiceObject

Check = Callable[[AnalyzedMesh], Iterator[Finding]]


def selectors(mesh: AnalyzedMesh) -> Iterator[Finding]:
    """Policies whose selector matches no workload."""
    snapshot = mesh.snapshot
    groups = (
        ("AuthorizationPolicy", snapshot.policies.values()),
        ("PeerAuthentication", snapshot.peer_authentications.values()),
        ("RequestAuthentication", snapshot.request_authentications.values()),
    )
    for kind, policies in groups:
        for policy in policies:
            if policy.scope is PolicyScope.SELECTOR and not _selects(
                snapshot, policy.namespace, policy.selector.items()
            ):
                labels = ", ".join(f"{k}={v}" for k, v in policy.selector.items())
                message = f"no workload of the namespace has the labels {labels}"
                yield mesh.finding(
                    Code.SELECTS_NOTHING, kind, policy.namespace, policy.name, message
                )


def _selects(snapshot: MeshSnapshot, namespace: str, wanted: ItemsView[str, str]) -> bool:
    root = snapshot.settings.root_namespace
    return any(
        wanted <= workload.labels.items()
        for workload in snapshot.workloads.values()
        if namespace in (workload.namespace, root)
    )


def silences(mesh: AnalyzedMesh) -> Iterator[Finding]:
    """ALLOW policies without a rule: they deny everything."""
    for policy in mesh.snapshot.policies.values():
        if policy.action is PolicyAction.ALLOW and not policy.rules:
            message = (
                f"an ALLOW policy without rules denies everything in its scope ({_scope(policy)})"
            )
            yield mesh.finding(
                Code.DENIES_ALL, "AuthorizationPolicy", policy.namespace, policy.name, message
            )


def _scope(policy: AuthorizationPolicy) -> str:
    return f"the {policy.scope}" if policy.scope is not PolicyScope.TARGET else "its targets"


def routes(mesh: AnalyzedMesh) -> Iterator[Finding]:
    """Routes that are refused, lead nowhere, or belong to a Service without waypoint."""
    for key, parents in route_statuses(mesh.snapshot).items():
        route = mesh.snapshot.routes[key]
        resolved = next((p.condition("ResolvedRefs") for p in parents), None)
        if resolved is not None and not resolved.status:
            yield _of_route(mesh, Code.BACKEND_UNRESOLVED, route, resolved.message)
        for parent in parents:
            yield from _towards(mesh, route, parent)


def _towards(mesh: AnalyzedMesh, route: Route, status: ParentStatus) -> Iterator[Finding]:
    parent, accepted = status.parent, status.condition("Accepted")
    if accepted is None:
        return
    # What is wrong with its rules the reducer has said, rule by rule.
    if not accepted.status and not any(rule.problems for rule in route.rules):
        message = f"parent {parent.namespace}/{parent.name}: {accepted.reason}: {accepted.message}"
        yield _of_route(mesh, Code.ROUTE_REFUSED, route, message)
        return
    service = mesh.snapshot.services.get(ServiceKey(f"{parent.namespace}/{parent.name}"))
    if service is not None and service.waypoint is None:
        message = f"Service {service.key} has no waypoint: the route does nothing there"
        yield _of_route(mesh, Code.ROUTE_WITHOUT_WAYPOINT, route, message)


def _of_route(mesh: AnalyzedMesh, code: Code, route: Route, message: str) -> Finding:
    return mesh.finding(code, str(route.kind), route.namespace, route.name, message)


def traffic_policies(mesh: AnalyzedMesh) -> Iterator[Finding]:
    """Traffic policies without a target, beaten by an older one, or where no waypoint acts."""
    codes = {
        PolicyReason.TARGET_NOT_FOUND: Code.POLICY_TARGET_MISSING,
        PolicyReason.CONFLICTED: Code.POLICY_CONFLICT,
    }
    for key, statuses in PolicyTable.compile(mesh.snapshot).statuses.items():
        policy = mesh.snapshot.traffic_policies[key]
        for status in statuses:
            code, message = codes.get(status.reason), status.message
            if code is None and status.target.kind == "Service":
                service = mesh.snapshot.services.get(
                    ServiceKey(f"{policy.namespace}/{status.target.name}")
                )
                if service is not None and service.waypoint is None:
                    code = Code.POLICY_WITHOUT_WAYPOINT
                    message = f"Service {service.key} has no waypoint: the policy does nothing"
            if code is not None:
                yield mesh.finding(code, "TrafficPolicy", policy.namespace, policy.name, message)
        yield from _selecting(mesh, policy)


def _selecting(mesh: AnalyzedMesh, policy: TrafficPolicy) -> Iterator[Finding]:
    """A policy of pods none of which is behind a waypoint that takes what is sent to them."""
    if policy.selector is None:
        return
    pods = [pod for pod in mesh.snapshot.workloads.values() if selects(policy, pod)]
    if all(pod.waypoint is None for pod in pods):
        message = (
            f"none of {len(pods)} selected pods is behind a waypoint for workloads: "
            "the policy does nothing"
        )
        code = Code.POLICY_WITHOUT_WAYPOINT
        yield mesh.finding(code, "TrafficPolicy", policy.namespace, policy.name, message)


def waypoints(mesh: AnalyzedMesh) -> Iterator[Finding]:
    """Services whose waypoint is not there, or not ready: they answer nobody."""
    snapshot = mesh.snapshot
    for service in snapshot.services.values():
        if service.waypoint is None:
            continue
        pods = snapshot.waypoint_workloads.get(service.waypoint, ())
        if not pods:
            yield mesh.finding(
                Code.WAYPOINT_MISSING,
                "Service",
                service.namespace,
                service.name,
                f"its waypoint {service.waypoint} has no pods",
                Severity.ERROR,
            )
        elif not any(pod.ready for pod in pods):
            yield mesh.finding(
                Code.WAYPOINT_NOT_READY,
                "Service",
                service.namespace,
                service.name,
                f"no pod of its waypoint {service.waypoint} is ready",
            )


def endpoints(mesh: AnalyzedMesh) -> Iterator[Finding]:
    """Services whose selector finds nobody."""
    for item in mesh.objects:
        if not isinstance(item.body, ServiceObject) or not item.body.spec.selector:
            continue
        service = mesh.snapshot.services.get(ServiceKey(f"{item.namespace}/{item.name}"))
        if service is not None and not service.endpoints:
            labels = ", ".join(f"{k}={v}" for k, v in item.body.spec.selector.items())
            yield mesh.finding(
                Code.NO_ENDPOINTS,
                "Service",
                item.namespace,
                item.name,
                f"no pod has the labels {labels}",
            )


CHECKS: tuple[Check, ...] = (endpoints, selectors, silences, routes, traffic_policies, waypoints)
