"""`describe`: what the mesh makes of a pod, a service or a namespace. Pure, from one snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.admin.matching import RouteRow, route_rows, suggest
from agent.admin.view import PodStatus
from mesh.errors import ConfigError
from mesh.model.policy import AuthorizationPolicy, PolicyKey, PolicyScope
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Service, ServiceKey, Workload
from mesh.policy.engine import PolicyIndex
from mesh.policy.l7.engine import RequestIndex
from mesh.routing.policies import PolicyTable, gateway_place, places_of

SCHEMA_VERSION = 1


class What(StrEnum):
    """What can be described."""

    POD = "pod"
    SERVICE = "service"
    NAMESPACE = "namespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInForce:
    """One object that has a say. `enforced_by`: `node` or the waypoint's name."""

    name: str
    kind: str
    action: str
    rules: int
    enforced_by: str
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMode:
    """Whether plaintext to a port is taken, and which object says so."""

    port: int
    mode: str
    decided_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A pod, service or namespace.

    Attributes:
        meshed: of a pod: its label (or its namespace's) asks for the mesh.
        state, reason: of enrolment, where the pod runs on the node that was asked.
        mtls: mode for every port but those in `ports`; decided_by: the object, empty = default.
        waypoint: its name; waypoint_ready: pods of it that take traffic, -1 without a waypoint.
        members: services of a pod, pods of a service, or pods of a namespace.
        settings: parts of TrafficPolicies that hold, with the policy of each.
    """

    schema_version: int = SCHEMA_VERSION
    what: What
    name: str
    meshed: bool = False
    state: str = ""
    reason: str = ""
    node: str = ""
    identity: str = ""
    addresses: tuple[str, ...] = ()
    waypoint: str = ""
    waypoint_ready: int = -1
    mtls: str = ""
    mtls_by: str = ""
    ports: tuple[PortMode, ...] = ()
    policies: tuple[PolicyInForce, ...] = ()
    routes: tuple[RouteRow, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    members: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def describe(
    snapshot: MeshSnapshot, what: What, name: str, pods: Sequence[PodStatus] = ()
) -> Description:
    """Describe an object; raises `ConfigError` if it is not known."""
    match what:
        case What.POD:
            return _pod(snapshot, _find_pod(snapshot, name), pods)
        case What.SERVICE:
            found = snapshot.services.get(ServiceKey(name))
            if found is None:
                raise ConfigError(f"no service {name!r} is known{suggest(name, snapshot.services)}")
            return _service(snapshot, found)
        case What.NAMESPACE:
            return _namespace(snapshot, name, pods)


def _find_pod(snapshot: MeshSnapshot, name: str) -> Workload:
    namespace, _, own = name.rpartition("/")
    for workload in snapshot.workloads.values():
        if workload.uid == name or (workload.namespace, workload.name) == (namespace, own):
            return workload
    names = [f"{w.namespace}/{w.name}" for w in snapshot.workloads.values()]
    raise ConfigError(f"no pod or workload {name!r} is known{suggest(name, names)}")


def _pod(snapshot: MeshSnapshot, pod: Workload, pods: Sequence[PodStatus]) -> Description:
    index = PolicyIndex.compile(snapshot)
    status = next((one for one in pods if one.uid == pod.uid), None)
    mtls = index.destination(pod).mtls
    services = [
        service
        for service in snapshot.services.values()
        if any(endpoint.workload == pod.uid for endpoint in service.endpoints)
    ]
    waypoint = pod.waypoint or ""
    return Description(
        what=What.POD,
        name=f"{pod.namespace}/{pod.name}",
        meshed=pod.enrolled,
        state=str(status.state) if status else "",
        reason=status.reason if status else "",
        node=pod.node,
        identity=str(pod.identity),
        addresses=tuple(map(str, pod.addresses)),
        waypoint=waypoint,
        waypoint_ready=_ready(snapshot, waypoint),
        mtls=str(mtls.mode),
        mtls_by=str(mtls.decided_by or ""),
        ports=tuple(
            PortMode(port=port, mode=str(mode), decided_by=str(by))
            for port, (mode, by) in sorted(mtls.ports.items())
        ),
        policies=tuple(_node_policies(index, pod)),
        settings=_settings_of_pod(snapshot, pod),
        members=tuple(sorted(service.key for service in services)),
        problems=tuple(_problems(snapshot, pod.namespace, pod.name)),
    )


def _settings_of_pod(snapshot: MeshSnapshot, pod: Workload) -> tuple[tuple[str, PolicyKey], ...]:
    """What TrafficPolicies say of its own address."""
    places = ((pod.uid, ""), *gateway_place(pod.waypoint))
    return PolicyTable.compile(snapshot).resolve(places).policy.sources if pod.waypoint else ()


def _service(snapshot: MeshSnapshot, service: Service) -> Description:
    waypoint = service.waypoint or ""
    table = PolicyTable.compile(snapshot)
    gateway = gateway_place(waypoint)
    held = [
        table.resolve((*places_of(service.key, name), *gateway)).policy
        for name in ("", *(port.name for port in service.ports))
    ]
    return Description(
        what=What.SERVICE,
        name=service.key,
        addresses=tuple(
            f"{address}:{port.port}" for address in service.addresses for port in service.ports
        ),
        waypoint=waypoint,
        waypoint_ready=_ready(snapshot, waypoint),
        policies=tuple(_request_policies(snapshot, waypoint, service.key)),
        routes=tuple(route_rows(snapshot, service)),
        settings=tuple(sorted({source for policy in held for source in policy.sources})),
        # An endpoint for each of its addresses: a pod is one member.
        members=tuple(
            dict.fromkeys(
                f"{endpoint.workload or endpoint.address}{'' if endpoint.ready else ' (not ready)'}"
                for endpoint in service.endpoints
            )
        ),
        problems=tuple(_problems(snapshot, service.namespace, service.name)),
    )


def _namespace(snapshot: MeshSnapshot, name: str, pods: Sequence[PodStatus]) -> Description:
    members = [w for w in snapshot.workloads.values() if w.namespace == name]
    services = [s for s in snapshot.services.values() if s.namespace == name]
    if not members and not services:
        known = {w.namespace for w in snapshot.workloads.values()}
        raise ConfigError(f"nothing is known of namespace {name!r}{suggest(name, known)}")
    states = {one.uid: one for one in pods}
    failed = [f"{w.uid}: {states[w.uid].reason}" for w in members if _has_failed(states, w)]
    return Description(
        what=What.NAMESPACE,
        name=name,
        meshed=any(w.enrolled for w in members),
        reason="; ".join(failed),
        policies=tuple(
            _in_force(policy, "node")
            for policy in sorted(snapshot.policies.values(), key=lambda one: one.key)
            if policy.namespace == name and policy.scope is not PolicyScope.TARGET
        ),
        waypoint=", ".join(sorted({s.waypoint for s in services if s.waypoint})),
        members=tuple(
            f"{w.name}{' (in the mesh)' if w.enrolled else ' (outside)'}"
            for w in sorted(members, key=lambda one: one.name)
        ),
        problems=tuple(_problems(snapshot, name, "")),
    )


def _has_failed(states: dict[str, PodStatus], workload: Workload) -> bool:
    status = states.get(workload.uid)
    return status is not None and bool(status.reason)


def _ready(snapshot: MeshSnapshot, waypoint: str) -> int:
    if not waypoint:
        return -1
    return sum(pod.ready for pod in snapshot.waypoint_workloads.get(waypoint, ()))


def _node_policies(index: PolicyIndex, pod: Workload) -> Iterable[PolicyInForce]:
    for layer in index.applicable(pod).ordered():
        for policy in layer:
            yield _in_force(policy, "node")


def _request_policies(
    snapshot: MeshSnapshot, waypoint: str, service: ServiceKey
) -> Iterable[PolicyInForce]:
    if not waypoint:
        return
    for layer in RequestIndex.compile(snapshot, waypoint).applicable(service):
        for policy in layer:
            yield _in_force(policy, waypoint)


def _in_force(policy: AuthorizationPolicy, enforced_by: str) -> PolicyInForce:
    return PolicyInForce(
        name=policy.key,
        kind="AuthorizationPolicy",
        action=str(policy.action),
        rules=len(policy.rules),
        enforced_by=enforced_by,
        dry_run=policy.dry_run,
    )


def _problems(snapshot: MeshSnapshot, namespace: str, name: str) -> Iterable[str]:
    """Problems of objects of this name, or of the namespace."""
    wanted = f"{namespace}/{name}" if name else f"{namespace}/"
    for problem in snapshot.problems:
        own = problem.subject.partition(" ")[2]
        if own == wanted or (not name and own.startswith(wanted)):
            yield f"{problem.subject}: {problem.message}"
