"""A leading controller's work on an API server, and the objects it works on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from controller.kubernetes.bundle import BundlePublisher, Roots
from controller.kubernetes.client import KubeClient, Manifest
from controller.kubernetes.leader import LatestMesh, Leader, Work
from controller.kubernetes.status_writer import StatusWriter
from controller.kubernetes.waypoint_keeper import WaypointKeeper
from controller.waypoints.manifests import WaypointSettings
from mesh.sources.kubernetes.resources import CONTROLLER_RESOURCES
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.kubernetes.transport import KubeApi
from mesh.sources.kubernetes.watcher import WatchSettings
from tests.support.kube_api import KubeApiServer
from tests.support.kube_store import Object, StatusError

TIMEOUT_S = 60.0
GATEWAY_API = "gateway.networking.k8s.io"
ROOTS = Roots(server_pem="server root", bundle_pem="roots")
CLASS = {
    "apiVersion": f"{GATEWAY_API}/v1",
    "kind": "GatewayClass",
    "metadata": {"name": "meshnode-waypoint"},
    "spec": {"controllerName": "meshnode.io/waypoint-controller"},
}
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "api", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
}


def gateway(*, class_name: str = "meshnode-waypoint", **annotations: str) -> Mapping[str, object]:
    named = {f"meshnode.io/{name.replace('_', '-')}": text for name, text in annotations.items()}
    return {
        "apiVersion": f"{GATEWAY_API}/v1",
        "kind": "Gateway",
        "metadata": {
            "name": "wp",
            "namespace": "shop",
            "annotations": named,
            "labels": {"meshnode.io/waypoint-for": "service"},
        },
        "spec": {
            "gatewayClassName": class_name,
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    }


def route(**status: object) -> Mapping[str, object]:
    parents = [
        {"group": "", "kind": "Service", "name": "api", "port": 80},
        {"group": GATEWAY_API, "kind": "Gateway", "name": "edge"},
    ]
    return {
        "apiVersion": f"{GATEWAY_API}/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "shop"},
        "spec": {
            "parentRefs": parents,
            "rules": [{"backendRefs": [{"name": "api", "port": 80}]}],
        },
        **({"status": status} if status else {}),
    }


@dataclass
class Stage:
    """A server, and a leader at work on it."""

    server: KubeApiServer

    def get(self, collection: str, name: str = "wp", namespace: str = "shop") -> Object | None:
        try:
            return self.server.store.get(collection, (namespace, name))
        except StatusError:
            return None

    def condition(self, collection: str, name: str, kind: str) -> Mapping[str, object]:
        found = self.get(collection, name) or {}
        status = found.get("status")
        items = status.get("conditions", []) if isinstance(status, dict) else []
        return next((item for item in items if item["type"] == kind), {})

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait; the test's own deadline ends this."""
        while not condition():  # noqa: ASYNC110  (of another task, without an event)
            await asyncio.sleep(0.02)


def play(
    script: Callable[[Stage], Awaitable[None]],
    *manifests: Mapping[str, object],
    admission: Callable[[], Manifest] | None = None,
    may_write: Callable[[], bool] = lambda: True,
) -> None:
    async def run() -> None:
        server = KubeApiServer(has_gateway_api=True, has_istio=True)
        async with asyncio.timeout(TIMEOUT_S), server.running():
            await server.apply(CLASS, NAMESPACE, *manifests)
            async with (
                KubeApi(server.access) as api,
                open_kubernetes(
                    server.access,
                    resources=CONTROLLER_RESOURCES,
                    settings=WatchSettings(first_backoff_s=0.01, missing_s=0.05),
                ) as source,
                aclosing(source.watch()) as changes,
                asyncio.TaskGroup() as group,
            ):
                mesh = LatestMesh(await anext(changes), changes)
                client = KubeClient(api, may_write=may_write)
                settings = WaypointSettings(image="meshnode:1", ca_address="ca:15012")
                work = Work(
                    client=client,
                    status=StatusWriter(
                        client, version=source.version, wall=time.time, pause_s=0.0
                    ),
                    waypoints=WaypointKeeper(client, settings),
                    bundles=BundlePublisher(client),
                )
                leader = Leader(mesh, work, roots=lambda: ROOTS, retry_s=0.05)
                tasks = [
                    group.create_task(mesh.follow()),
                    group.create_task(leader.lead(admission)),
                ]
                await script(Stage(server))
                for task in tasks:
                    task.cancel()

    asyncio.run(run())
