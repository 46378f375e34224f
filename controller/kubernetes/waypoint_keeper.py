"""Makes the objects of waypoints be what their Gateways ask for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from controller.kubernetes.client import KubeClient, Manifest, metadata_of, path_of
from controller.waypoints.manifests import (
    MANAGED_BY,
    MANAGER,
    WaypointSettings,
    waypoint_manifests,
)
from controller.waypoints.request import WaypointRequest
from mesh.identity.directory import WAYPOINT_CLASS, WAYPOINT_CLASS_LABEL
from mesh.sources.kubernetes.errors import KubeError

log = logging.getLogger(__name__)

ROLE = "meshnode-waypoint"
_MADE = (
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("v1", "ServiceAccount"),
)
"""Everything a waypoint may have, in the order in which it is taken away."""


class WaypointKeeper:
    """Applies what changed; `forget` makes it apply everything once more."""

    def __init__(self, client: KubeClient, settings: WaypointSettings) -> None:
        self._client = client
        self._settings = settings
        self._applied: dict[str, WaypointRequest] = {}
        self._accounts: tuple[str, ...] | None = None
        self._is_begun = False

    def forget(self) -> None:
        """Compare everything with the API server once more."""
        self._applied.clear()
        self._accounts = None
        self._is_begun = False

    async def keep(self, requests: Sequence[WaypointRequest]) -> bool:
        """Bring every waypoint up to date. False if something has to be tried again."""
        good = [request for request in requests if not request.problems]
        try:
            if not self._is_begun:
                await self._remove_strays({request.key for request in requests})
                self._is_begun = True
            await self._bind(good)
        except KubeError as error:
            log.warning("waypoints: %s", error)
            return False
        is_done = True
        for key in self._applied.keys() - {request.key for request in requests}:
            is_done &= await self._try_remove(key)
        for request in good:
            if self._applied.get(request.key) != request:
                is_done &= await self._try_apply(request)
        return is_done

    async def _try_apply(self, request: WaypointRequest) -> bool:
        manifests = waypoint_manifests(request, self._settings)
        try:
            for manifest in manifests:
                await self._apply(manifest, request)
            if not request.max_replicas:
                await self._remove_one(*_MADE[0], request.namespace, request.name)
        except KubeError as error:
            log.warning("waypoint %s: %s", request.key, error)
            return False
        self._applied[request.key] = request
        log.info("waypoint %s is as its Gateway asks", request.key)
        return True

    async def _apply(self, manifest: Manifest, request: WaypointRequest) -> None:
        if request.key not in self._applied:
            found = await self._client.get(path_of(manifest))
            if found is not None and not _is_ours(found):
                raise KubeError(
                    f"there is a {manifest['kind']} of that name which is not of a waypoint: "
                    "rename it or the Gateway"
                )
        await self._client.apply(manifest)

    async def _try_remove(self, key: str) -> bool:
        try:
            await self._remove(*key.split("/"))
        except KubeError as error:
            log.warning("waypoint %s: %s", key, error)
            return False
        del self._applied[key]
        return True

    async def _remove(self, namespace: str, name: str) -> None:
        """Take away what the garbage collector may leave: a Gateway that changed its class."""
        for api_version, kind in _MADE:
            await self._remove_one(api_version, kind, namespace, name)

    async def _remove_one(self, api_version: str, kind: str, namespace: str, name: str) -> None:
        path = path_of(_name_of(api_version, kind, namespace, name))
        found = await self._client.get(path)
        if found is not None and _is_ours(found):
            await self._client.delete(path)

    async def _remove_strays(self, wanted: set[str]) -> None:
        """Waypoints whose Gateway went while nobody led."""
        selector = f"{MANAGED_BY}={MANAGER},{WAYPOINT_CLASS_LABEL}={WAYPOINT_CLASS}"
        for found in await self._client.list("/apis/apps/v1/deployments", selector):
            meta = metadata_of(found)
            namespace, name = str(meta["namespace"]), str(meta["name"])
            if f"{namespace}/{name}" not in wanted:
                await self._remove(namespace, name)

    async def _bind(self, requests: Iterable[WaypointRequest]) -> None:
        """Waypoints read the mesh: one binding names the accounts of all."""
        accounts = tuple(sorted(request.key for request in requests))
        if accounts == self._accounts:
            return
        subjects = [
            {"kind": "ServiceAccount", "namespace": namespace, "name": name}
            for namespace, _, name in (key.partition("/") for key in accounts)
        ]
        await self._client.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": ROLE},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": ROLE,
                },
                "subjects": subjects,
            }
        )
        self._accounts = accounts


def _is_ours(found: Manifest) -> bool:
    labels = metadata_of(found).get("labels")
    return isinstance(labels, dict) and labels.get(MANAGED_BY) == MANAGER


def _name_of(api_version: str, kind: str, namespace: str, name: str) -> Manifest:
    metadata: Manifest = {"name": name, "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
