"""A Gateway as a wish for a waypoint, checked. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.identity.directory import WAYPOINT_CLASS
from mesh.model.workload import WaypointFor
from mesh.sources.objects import GatewayClassObject, GatewayListener, GatewayObject, SourceObject
from mesh.state.waypoints import parse_waypoint_for

CONTROLLER_NAME = "meshnode.io/waypoint-controller"
REPLICAS, MAX_REPLICAS = "meshnode.io/replicas", "meshnode.io/max-replicas"
"""Annotations of a Gateway: how many pods, and up to how many under load."""
HBONE_PORT = 15008
MOST_REPLICAS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WaypointRequest:
    """What a Gateway asks for.

    Attributes:
        max_replicas: 0 = no autoscaling.
        problems: why it cannot be done; empty if it can.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    listeners: tuple[GatewayListener, ...]
    replicas: int = 1
    max_replicas: int = 0
    serves: WaypointFor = WaypointFor.SERVICE
    problems: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`<namespace>/<name>`."""
        return f"{self.namespace}/{self.name}"


def our_classes(objects: Iterable[SourceObject]) -> frozenset[str]:
    """Names of the GatewayClasses that are ours to serve."""
    return frozenset(
        item.name
        for item in objects
        if isinstance(item.body, GatewayClassObject)
        and item.body.spec.controller_name == CONTROLLER_NAME
    )


def waypoint_requests(objects: Iterable[SourceObject]) -> list[WaypointRequest]:
    """Every Gateway of the waypoint class, where that class is ours."""
    known = list(objects)
    if WAYPOINT_CLASS not in our_classes(known):
        return []
    return [
        _request(item, item.body)
        for item in known
        if isinstance(item.body, GatewayObject)
        and item.body.spec.gateway_class_name == WAYPOINT_CLASS
    ]


def _request(item: SourceObject, gateway: GatewayObject) -> WaypointRequest:
    meta, problems = gateway.metadata, []
    serves, problem = parse_waypoint_for(meta.labels)
    if problem:
        problems.append(problem)
    replicas = _count(meta.annotations, REPLICAS, 1, problems)
    most = _count(meta.annotations, MAX_REPLICAS, 0, problems)
    if most and most < replicas:
        problems.append(f"annotation {MAX_REPLICAS}: less than {REPLICAS}")
    if not any(is_hbone(listener) for listener in gateway.spec.listeners):
        problems.append(f"it needs a listener with protocol HBONE on port {HBONE_PORT}")
    return WaypointRequest(
        namespace=item.namespace,
        name=item.name,
        uid=meta.uid,
        generation=meta.generation,
        listeners=gateway.spec.listeners,
        replicas=replicas,
        max_replicas=most,
        serves=serves,
        problems=tuple(problems),
    )


def is_hbone(listener: GatewayListener) -> bool:
    """Whether a listener is the one that a waypoint has."""
    return listener.protocol == "HBONE" and listener.port == HBONE_PORT


def _count(annotations: Mapping[str, str], name: str, default: int, problems: list[str]) -> int:
    text = annotations.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MOST_REPLICAS):
        problems.append(f"annotation {name}: {text!r} is not a number from 1 to {MOST_REPLICAS}")
        return default
    return int(text)
