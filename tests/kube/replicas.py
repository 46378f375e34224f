"""Whole controllers on one API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.kubernetes.election import LEASE
from controller.kubernetes.run import ClusterSettings, run_cluster_controller
from controller.lease import LeaseTiming
from controller.run import ControllerPorts, ControllerSettings
from controller.waypoints.manifests import WaypointSettings
from mesh.identity.ca import CaSettings
from tests.kube.test_connect import kubeconfig
from tests.kube.test_token_review import (
    ACCOUNT,
    TOKEN,
    agent_pod,
    review,
    workload,
)
from tests.support.kube_api import KubeApiServer
from tests.support.kube_store import Object, StatusError

TIMEOUT_S = 120.0
SYSTEM = "meshnode-system"
QUICK = LeaseTiming(duration_s=1.0, renew_within_s=0.7, retry_s=0.1)


@dataclass
class Replica:
    """A controller under way."""

    path: Path
    port: int
    task: asyncio.Task[None]
    stop: asyncio.Event


class Stage:
    """A cluster with a node's agent and two workloads, and controllers on demand."""

    def __init__(self, server: KubeApiServer, tmp_path: Path, group: asyncio.TaskGroup) -> None:
        self.server = server
        self.tmp_path = tmp_path
        self._group = group
        self.config = kubeconfig(tmp_path, {"server": f"http://127.0.0.1:{server.port}"}, {})
        self.replicas: list[Replica] = []
        self.patience_s = 0.1

    def settings(
        self, name: str, webhook_port: int | None = None, waypoint_image: str = ""
    ) -> ClusterSettings:
        waypoints = WaypointSettings(image=waypoint_image, ca_address="ca:15012")
        return ClusterSettings(
            kubeconfig=self.config,
            namespace=SYSTEM,
            identity=name,
            agents=ACCOUNT,
            webhook_port=webhook_port,
            waypoints=waypoints if waypoint_image else None,
            lease=QUICK,
            retry_s=0.1,
            patience_s=self.patience_s,
        )

    async def start(
        self, name: str, *, webhook_port: int | None = None, waypoint_image: str = ""
    ) -> Replica:
        """Start a replica; back when it serves."""
        path, stop = self.tmp_path / name, asyncio.Event()
        ready: asyncio.Future[ControllerPorts] = asyncio.get_running_loop().create_future()
        task = self._group.create_task(
            run_cluster_controller(
                self.settings(name, webhook_port, waypoint_image),
                ControllerSettings(
                    state_dir=path,
                    host="127.0.0.1",
                    port=0,
                    health_port=None,
                    ca=CaSettings(publish_s=1.0, leaf_lifetime_s=3600.0),
                ),
                stop=stop,
                on_ready=ready.set_result,
            )
        )
        made = Replica(path, (await ready).ca, task, stop)
        self.replicas.append(made)
        return made

    def get(self, collection: str, name: str, namespace: str = SYSTEM) -> Object | None:
        try:
            return self.server.store.get(collection, (namespace, name))
        except StatusError:
            return None

    @property
    def holder(self) -> object:
        spec = (self.get("leases.coordination.k8s.io", LEASE) or {}).get("spec")
        return spec.get("holderIdentity") if isinstance(spec, dict) else None

    def published(self) -> str:
        data = (self.get("configmaps", "meshnode-ca-root", "shop") or {}).get("data")
        return str(data["bundle.pem"]) if isinstance(data, dict) else ""

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait; the test's own deadline ends this."""
        while not condition():  # noqa: ASYNC110  (of another task, without an event)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    server = KubeApiServer(has_gateway_api=True)
    server.store.serve(
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        "admissionregistration.k8s.io/v1",
    )
    server.reviews[TOKEN] = review()
    labels = {"meshnode.io/dataplane": "enabled"}
    async with server.running():
        await server.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": "shop", "labels": labels},
            },
            agent_pod(),
            workload("here", "one", "10.0.0.1"),
            workload("there", "two", "10.0.0.2"),
        )
        async with asyncio.TaskGroup() as group:
            made = Stage(server, tmp_path, group)
            yield made
            for replica in made.replicas:
                replica.stop.set()


def play(tmp_path: Path, script: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), stage(tmp_path) as on:
            await script(on)

    asyncio.run(run())
