"""Status into the API server: read, merge, write only what differs, and not too fast."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from controller.kubernetes.client import KubeClient, Manifest, metadata_of, object_path
from controller.status.desired import (
    SUPPORTED_FEATURES,
    ObjectName,
    PolicyStatus,
    RouteStatus,
)
from controller.status.gateways import GatewayStatus, ListenerStatus
from controller.status.merge import merge_conditions, merge_parents
from controller.waypoints.request import CONTROLLER_NAME
from mesh.model.routing import GATEWAY_GROUP
from mesh.routing.status import Condition
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import CONTROLLER_RESOURCES, Resource

log = logging.getLogger(__name__)

PAUSE_S = 0.05
"""Between two writes: a thousand routes that change at once are 50 s of them, not a storm."""


ISTIO_GROUP, ISTIO_PREFIX = "security.istio.io", "meshnode.io/"
"""Istio writes conditions of its own into these objects; ours have a domain, and are written again
only when they change or every ten minutes: two who disagree do not chase each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassStatus:
    """Our GatewayClass."""

    generation: int


Status = RouteStatus | PolicyStatus | GatewayStatus | ClassStatus


class StatusWriter:
    """Writes what differs from what it wrote before.

    Args:
        version: the resource version that the source has read of an object, by resource,
            namespace and name: a policy's status is only written to the state it was made of.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        version: Callable[[str, str, str], str],
        wall: Callable[[], float],
        pause_s: float = PAUSE_S,
    ) -> None:
        self._client = client
        self._version = version
        self._wall = wall
        self._pause_s = pause_s
        self._written: dict[ObjectName, Status] = {}

    def forget(self) -> None:
        """Compare everything with the API server once more."""
        self._written.clear()

    async def write(self, wanted: Mapping[ObjectName, Status]) -> bool:
        """Bring every status up to date. False if something has to be tried again."""
        is_done = True
        for name in [name for name in self._written if name not in wanted]:
            del self._written[name]
        for name, status in wanted.items():
            if self._written.get(name) == status:
                continue
            try:
                written = await self._write_one(name, status)
            except KubeError as error:
                written = error.is_missing
                if not error.is_missing and not error.is_conflict:
                    log.warning(
                        "status of %s %s/%s: %s", name.kind, name.namespace, name.name, error
                    )
            if written:
                self._written[name] = status
            is_done &= written
        return is_done

    async def _write_one(self, name: ObjectName, status: Status) -> bool:
        """True if the API server has it now; False if we are behind or it changed meanwhile."""
        resource = self._resource(name)
        found, path = await self._read(resource, name)
        if found is None:
            return True
        meta = metadata_of(found)
        generation = meta.get("generation", 0)
        if isinstance(status, PolicyStatus):
            known = self._version(resource.name, name.namespace, name.name)
            if known != meta.get("resourceVersion"):
                return False
            prefix = ISTIO_PREFIX if resource.group == ISTIO_GROUP else ""
            status = _observed(status, generation if isinstance(generation, int) else 0, prefix)
        elif status.generation not in (0, generation):
            return False
        old = found.get("status")
        now = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        new = _merged(old if isinstance(old, dict) else {}, status, now)
        if new == (old or {}):
            return True
        await self._client.replace(f"{path}/status", {**found, "status": new})
        await asyncio.sleep(self._pause_s)
        return True

    def _resource(self, name: ObjectName) -> Resource:
        """Where it was read from: where two groups have an object of one name, ours counts."""
        known = [resource for resource in CONTROLLER_RESOURCES if resource.kind == name.kind]
        for resource in known:
            if len(known) > 1 and self._version(resource.name, name.namespace, name.name):
                return resource
        return known[0]

    async def _read(self, resource: Resource, name: ObjectName) -> tuple[Manifest | None, str]:
        path = ""
        for version in resource.api_versions:
            path = object_path(version, resource.plural, name.namespace, name.name)
            found = await self._client.get(path)
            if found is not None:
                return found, path
        return None, path


def _observed(status: PolicyStatus, generation: int, prefix: str) -> PolicyStatus:
    return PolicyStatus(
        conditions=tuple(
            replace(c, type=f"{prefix}{c.type}", observed_generation=generation)
            for c in status.conditions
        )
    )


def _merged(old: Manifest, status: Status, now: str) -> Manifest:
    match status:
        case RouteStatus():
            if not status.parents and not old.get("parents"):
                return old
            parents = merge_parents(old.get("parents"), status.parents, CONTROLLER_NAME, now)
            return {**old, "parents": parents}
        case PolicyStatus():
            return {
                **old,
                "conditions": merge_conditions(old.get("conditions"), status.conditions, now),
            }
        case GatewayStatus():
            return _gateway(old, status, now)
        case ClassStatus():
            return _class(old, status, now)


def _gateway(old: Manifest, status: GatewayStatus, now: str) -> Manifest:
    known = old.get("listeners")
    before = {str(item.get("name")): item for item in known} if isinstance(known, list) else {}
    new: Manifest = {
        **old,
        "conditions": merge_conditions(old.get("conditions"), status.conditions, now),
        "listeners": [_listener(before.get(item.name, {}), item, now) for item in status.listeners],
    }
    if status.addresses:
        new["addresses"] = [{"type": "IPAddress", "value": text} for text in status.addresses]
    return new


def _listener(old: Manifest, item: ListenerStatus, now: str) -> Manifest:
    return {
        "name": item.name,
        "attachedRoutes": item.attached_routes,
        "supportedKinds": [{"group": GATEWAY_GROUP, "kind": kind} for kind in item.kinds],
        "conditions": merge_conditions(old.get("conditions"), item.conditions, now),
    }


def _class(old: Manifest, status: ClassStatus, now: str) -> Manifest:
    conditions = [
        Condition(
            type=kind,
            status=True,
            reason=kind,
            message=message,
            observed_generation=status.generation,
        )
        for kind, message in (
            ("Accepted", "its Gateways become waypoints"),
            ("SupportedVersion", "the Gateway API's version is one that we read"),
        )
    ]
    return {
        **old,
        "conditions": merge_conditions(old.get("conditions"), conditions, now),
        "supportedFeatures": [{"name": name} for name in SUPPORTED_FEATURES],
    }
