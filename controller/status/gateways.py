"""The status of a waypoint's Gateway and of its listeners. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.status.desired import ObjectName, RouteStatus, condition
from controller.waypoints.request import WaypointRequest, is_hbone
from mesh.model.routing import GATEWAY_GROUP, RouteKind
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import ServiceKey
from mesh.routing.status import Condition
from mesh.sources.objects import GatewayListener, RouteGroupKind

SUPPORTED_KINDS = tuple(str(kind) for kind in RouteKind)
_CONFLICTS = {True: "HostnameConflict", False: "ProtocolConflict"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    """status.listeners[]."""

    name: str
    conditions: tuple[Condition, ...]
    attached_routes: int = 0
    kinds: tuple[str, ...] = SUPPORTED_KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus:
    """A waypoint's Gateway."""

    generation: int
    conditions: tuple[Condition, ...]
    listeners: tuple[ListenerStatus, ...]
    addresses: tuple[str, ...] = ()


_Word = tuple[bool, str, str]


def attached_routes(
    routes: Mapping[ObjectName, RouteStatus], snapshot: MeshSnapshot
) -> Mapping[str, int]:
    """How many routes each waypoint acts on: those accepted by a Service behind it."""
    found: Counter[str] = Counter()
    for status in routes.values():
        waypoints: set[str] = set()
        for one in status.parents:
            accepted, parent = one.condition("Accepted"), one.parent
            service = snapshot.services.get(ServiceKey(f"{parent.namespace}/{parent.name}"))
            if parent.is_service and accepted is not None and accepted.status:
                waypoints |= {service.waypoint} if service and service.waypoint else set()
        found.update(waypoints)
    return found


def gateway_status(
    request: WaypointRequest, snapshot: MeshSnapshot, attached: int
) -> GatewayStatus:
    """The status of a waypoint's Gateway: programmed once a pod of it is ready.

    Args:
        attached: see `attached_routes`.
    """
    generation = request.generation
    ready = sum(pod.ready for pod in snapshot.waypoint_workloads.get(request.key, ()))
    listeners = _listeners(request, ready=bool(ready), attached=attached)
    accepted, programmed = _gateway_words(request, listeners, ready)
    service = snapshot.services.get(ServiceKey(request.key))
    return GatewayStatus(
        generation=generation,
        conditions=(
            condition("Accepted", *accepted, generation),
            condition("Programmed", *programmed, generation),
        ),
        listeners=listeners,
        addresses=tuple(map(str, service.addresses)) if service is not None else (),
    )


def _gateway_words(
    request: WaypointRequest, listeners: Sequence[ListenerStatus], ready: int
) -> tuple[_Word, _Word]:
    if request.problems:
        words = (False, "InvalidParameters", "; ".join(request.problems))
        return words, (False, "Invalid", "it is not accepted")
    pods = f"{ready} of its pods are ready" if ready != 1 else "1 of its pods is ready"
    programmed = (bool(ready), "Programmed" if ready else "Pending", pods)
    bad = [one.name for one in listeners if not one.conditions[0].status]
    if bad:
        message = f"the waypoint is run by meshnode, but not every listener: {', '.join(bad)}"
        return (True, "ListenersNotValid", message), programmed
    return (True, "Accepted", "the waypoint is run by meshnode"), programmed


def _listeners(
    request: WaypointRequest, *, ready: bool, attached: int
) -> tuple[ListenerStatus, ...]:
    """A waypoint has one listener: the first that can be it. Others are said what is wrong."""
    chosen = next((item for item in request.listeners if is_hbone(item)), None)
    found = []
    for item in request.listeners:
        rivals = [one for one in request.listeners if one.port == item.port and one is not item]
        conflict = "" if item is chosen or not rivals else _CONFLICTS[is_hbone(item)]
        is_good = item is chosen and not request.problems
        words = _words(item, is_good=is_good, ready=ready, conflict=conflict)
        found.append(
            ListenerStatus(
                name=item.name,
                conditions=tuple(
                    condition(kind, *word, request.generation) for kind, word in words.items()
                ),
                attached_routes=attached if is_good else 0,
                kinds=_kinds(item) if is_hbone(item) else (),
            )
        )
    return tuple(found)


def _words(
    item: GatewayListener, *, is_good: bool, ready: bool, conflict: str
) -> Mapping[str, _Word]:
    accepted: _Word = (True, "Accepted", "connections of the mesh come in here")
    if not is_hbone(item):
        message = "a waypoint has one listener: HBONE on port 15008"
        accepted = (False, "UnsupportedProtocol", message)
    elif conflict:
        accepted = (False, "PortUnavailable", "another listener has the port")
    elif not is_good:
        accepted = (False, "Invalid", "the Gateway is not accepted")
    programmed: _Word = (False, "Pending" if is_good else "Invalid", "it takes no connections")
    if is_good and ready:
        programmed = (True, "Programmed", "it takes connections")
    unknown = [kind.kind for kind in item.allowed_routes.kinds if not _is_supported(kind)]
    resolved: _Word = (True, "ResolvedRefs", "there is nothing to resolve")
    if unknown:
        message = f"allowedRoutes.kinds: {', '.join(unknown)} is not supported"
        resolved = (False, "InvalidRouteKinds", message)
    return {
        "Accepted": accepted,
        "Programmed": programmed,
        "ResolvedRefs": resolved,
        "Conflicted": (True, conflict, "another listener of this Gateway has the same port")
        if conflict
        else (False, "NoConflicts", "no listener stands in its way"),
    }


def _is_supported(kind: RouteGroupKind) -> bool:
    return kind.group == GATEWAY_GROUP and kind.kind in SUPPORTED_KINDS


def _kinds(item: GatewayListener) -> tuple[str, ...]:
    """What of it can be attached: all that we support, or what of that the listener names."""
    named = item.allowed_routes.kinds
    return tuple(k.kind for k in named if _is_supported(k)) if named else SUPPORTED_KINDS
