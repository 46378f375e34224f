"""What the leading controller does whenever the mesh changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from controller.kubernetes.bundle import BundlePublisher, Roots
from controller.kubernetes.client import KubeClient, Manifest
from controller.kubernetes.status_writer import ClassStatus, Status, StatusWriter
from controller.kubernetes.waypoint_keeper import WaypointKeeper
from controller.status.desired import ObjectName, policy_status, route_status
from controller.status.gateways import attached_routes, gateway_status
from controller.waypoints.request import CONTROLLER_NAME, WaypointRequest, waypoint_requests
from mesh.model.snapshot import MeshSnapshot
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.objects import GatewayClassObject, NamespaceObject, ObjectSet
from mesh.state.reducer import Reducer

log = logging.getLogger(__name__)

RESYNC_S = 600.0
RETRY_S = 5.0


class LatestMesh:
    """The newest objects and snapshot of a source."""

    def __init__(self, objects: ObjectSet, changes: AsyncIterator[ObjectSet]) -> None:
        self._changes = changes
        self._reducer = Reducer()
        self.objects = objects
        self.snapshot = self._reducer.reduce(objects)
        self.changed = asyncio.Event()
        """Set, and replaced, with every change."""

    async def follow(self) -> None:
        """Follow the source until cancelled."""
        async for objects in self._changes:
            self.objects = objects
            self.snapshot = self._reducer.reduce(objects)
            self.changed.set()
            self.changed = asyncio.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The parts of the leader's work; `waypoints` None where no image is known."""

    client: KubeClient
    status: StatusWriter
    waypoints: WaypointKeeper | None
    bundles: BundlePublisher


class Leader:
    """Compares and corrects, again and again. Nothing here is remembered by the cluster for us.

    Args:
        roots: what is published of the CA, as it is now.
    """

    def __init__(
        self,
        mesh: LatestMesh,
        work: Work,
        *,
        roots: Callable[[], Roots],
        resync_s: float = RESYNC_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._mesh = mesh
        self._work = work
        self._roots = roots
        self._resync_s = resync_s
        self._retry_s = retry_s
        self._applied: Manifest | None = None
        """The webhook's configuration as it was applied last."""

    async def lead(self, admission: Callable[[], Manifest] | None = None) -> None:
        """Work until cancelled: by every change, and at times without one.

        Args:
            admission: the webhook's configuration as it is now, where there is a webhook.
        """
        loop = asyncio.get_running_loop()
        resync_at = loop.time()
        while True:
            if loop.time() >= resync_at:
                self._forget()
                self._applied = None
                resync_at = loop.time() + self._resync_s
            changed = self._mesh.changed
            is_done = await self._round(admission)
            # The roots change without a word from the source: look often enough.
            wait_s = self._resync_s if is_done else self._retry_s
            await _wait(changed, min(wait_s, self._retry_s))

    def _forget(self) -> None:
        self._work.status.forget()
        self._work.bundles.forget()
        if self._work.waypoints is not None:
            self._work.waypoints.forget()

    async def _round(self, admission: Callable[[], Manifest] | None) -> bool:
        objects, snapshot, work = self._mesh.objects, self._mesh.snapshot, self._work
        requests = waypoint_requests(objects.objects)
        namespaces = [o.name for o in objects.objects if isinstance(o.body, NamespaceObject)]
        if admission is not None:
            await self._apply(admission())
        is_done = await work.bundles.publish(namespaces, self._roots())
        if work.waypoints is not None:
            is_done &= await work.waypoints.keep(requests)
        return await work.status.write(_statuses(objects, snapshot, requests)) and is_done

    async def _apply(self, manifest: Manifest) -> None:
        if manifest == self._applied:
            return
        try:
            await self._work.client.apply(manifest)
        except KubeError as error:
            log.warning("the webhook's configuration: %s", error)
            return
        self._applied = manifest


def _statuses(
    objects: ObjectSet, snapshot: MeshSnapshot, requests: list[WaypointRequest]
) -> dict[ObjectName, Status]:
    routes = route_status(snapshot, {request.key for request in requests})
    attached = attached_routes(routes, snapshot)
    found: dict[ObjectName, Status] = {**routes, **policy_status(snapshot)}
    for item in objects.objects:
        body = item.body
        if isinstance(body, GatewayClassObject) and body.spec.controller_name == CONTROLLER_NAME:
            name = ObjectName(kind="GatewayClass", namespace="", name=item.name)
            found[name] = ClassStatus(generation=body.metadata.generation)
    for request in requests:
        name = ObjectName(kind="Gateway", namespace=request.namespace, name=request.name)
        found[name] = gateway_status(request, snapshot, attached.get(request.key, 0))
    return found


async def _wait(changed: asyncio.Event, wait_s: float) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await changed.wait()
    except TimeoutError:
        return
