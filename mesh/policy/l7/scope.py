"""Which objects a waypoint enforces, and on which of its services.

Only objects with `targetRefs` do: a GatewayClass (from the root namespace), the waypoint's Gateway,
or a Service. Selectors and whole namespaces are about pods, and are enforced at their ztunnel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from mesh.model.authentication import RequestAuthentication
from mesh.model.policy import AuthorizationPolicy, PolicyScope, PolicyTarget, TargetKind
from mesh.model.workload import ServiceKey

Targeted = TypeVar("Targeted", AuthorizationPolicy, RequestAuthentication)

GATEWAY_CLASS = "meshnode-waypoint"
"""The class of our waypoints' Gateways."""


class TargetScopes(Generic[Targeted]):
    """The objects of one waypoint, by service."""

    __slots__ = ("_services", "_wide")

    def __init__(self, objects: Iterable[Targeted], root_namespace: str, waypoint: str) -> None:
        namespace, _, name = waypoint.partition("/")
        gateway = PolicyTarget(kind=TargetKind.GATEWAY, namespace=namespace, name=name)
        class_ = PolicyTarget(kind=TargetKind.GATEWAY_CLASS, namespace="", name=GATEWAY_CLASS)
        mesh: list[Targeted] = []
        own: list[Targeted] = []
        services: dict[str, list[Targeted]] = {}
        for item in sorted(objects, key=lambda item: item.key):
            if item.scope is not PolicyScope.TARGET:
                continue
            if class_ in item.targets and item.namespace == root_namespace:
                mesh.append(item)
            if gateway in item.targets:
                own.append(item)
            for target in dict.fromkeys(item.targets):
                if target.kind is TargetKind.SERVICE:
                    services.setdefault(f"{target.namespace}/{target.name}", []).append(item)
        self._wide: tuple[tuple[Targeted, ...], tuple[Targeted, ...]] = (tuple(mesh), tuple(own))
        self._services: dict[str, tuple[Targeted, ...]] = {
            key: tuple(items) for key, items in services.items()
        }

    def of(self, service: ServiceKey | None) -> tuple[tuple[Targeted, ...], ...]:
        """Collect the objects for a service, widest first: class, gateway, service."""
        own: tuple[Targeted, ...] = ()
        if service is not None:
            own = self._services.get(service, ())
        mesh, gateway = self._wide
        return mesh, gateway, own
