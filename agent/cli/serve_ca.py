"""Composition root of `meshnode controller`: source, snapshot, certificate authority."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import click

from agent.options import KubernetesOption, ListenOn, ServiceAccountName, SourceOption
from controller.run import ControllerPorts, ControllerSettings, run_controller
from mesh.identity.directory import SnapshotDirectory
from mesh.identity.server import Authenticator
from mesh.sources.file import FileSource
from mesh.sources.objects import ObjectSet
from mesh.state.reducer import Reducer
from mesh.stopping import until_stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOptions:
    """What a controller in a cluster is told; without a namespace it is a CA and no more."""

    namespace: str | None
    identity: str
    waypoint_image: str | None
    webhook_port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerAddress:
    """Where a controller is reached."""

    listen: ListenOn
    health_port: int


def serve_ca(
    source: SourceOption | KubernetesOption,
    state_dir: Path,
    address: ControllerAddress,
    agents: ServiceAccountName,
    replica: ReplicaOptions,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises `ConfigError`."""
    settings = ControllerSettings(
        state_dir=state_dir,
        host=address.listen.host,
        port=address.listen.port,
        health_port=address.health_port,
    )
    if isinstance(source, KubernetesOption) and replica.namespace:
        asyncio.run(_serve_cluster(source, settings, agents, replica, replica.namespace))
    else:
        asyncio.run(_serve(source, settings, agents))


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _serve_cluster(
    source: KubernetesOption,
    settings: ControllerSettings,
    agents: ServiceAccountName,
    replica: ReplicaOptions,
    namespace: str,
) -> None:
    from controller.kubernetes.run import ClusterSettings, run_cluster_controller
    from controller.kubernetes.token_review import Account
    from controller.waypoints.manifests import WaypointSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    waypoints = None
    if replica.waypoint_image:
        address = f"meshnode-controller.{namespace}.svc:{settings.port}"
        waypoints = WaypointSettings(image=replica.waypoint_image, ca_address=address)
    cluster = ClusterSettings(
        kubeconfig=source.kubeconfig,
        namespace=namespace,
        identity=replica.identity,
        agents=Account(namespace=agents.namespace, name=agents.name),
        waypoints=waypoints,
        webhook_port=replica.webhook_port,
    )
    # The kubelet probes the pod's address.
    served = replace(settings, health_host=settings.host)
    await run_cluster_controller(cluster, served, stop=_stop_event(), on_ready=_say_ready)


async def _serve(
    source: SourceOption | KubernetesOption,
    settings: ControllerSettings,
    agents: ServiceAccountName,
) -> None:
    stop = _stop_event()
    async with AsyncExitStack() as stack:
        changes, authenticator = await _open(source, agents, stack)
        # Who runs where is known before the first request is answered.
        objects = await until_stopped(anext(changes), stop)
        if objects is None:
            return
        mesh = _Latest(objects, changes)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        following = group.create_task(mesh.follow())
        await run_controller(
            settings,
            directory=SnapshotDirectory(lambda: mesh.snapshot),
            clock=time.time,
            random_bytes=os.urandom,
            stop=stop,
            on_ready=_say_ready,
            authenticator=authenticator,
        )
        following.cancel()


async def _open(
    source: SourceOption | KubernetesOption, agents: ServiceAccountName, stack: AsyncExitStack
) -> tuple[AsyncIterator[ObjectSet], Authenticator | None]:
    """The mesh's objects, and who says which node is asking; None for join tokens."""
    if isinstance(source, SourceOption):
        return FileSource(source.directory).watch(), None
    # Standalone there is no use for what speaks to a cluster.
    from controller.kubernetes.cluster import open_cluster
    from controller.kubernetes.token_review import Account

    account = Account(namespace=agents.namespace, name=agents.name)
    cluster = await stack.enter_async_context(open_cluster(source.kubeconfig, account))
    return cluster.changes, cluster.authenticator


class _Latest:
    """Keeps the newest snapshot of a source."""

    def __init__(self, objects: ObjectSet, changes: AsyncIterator[ObjectSet]) -> None:
        self._changes = changes
        self._reducer = Reducer()
        self.snapshot = self._reducer.reduce(objects)

    async def follow(self) -> None:
        async for objects in self._changes:
            self.snapshot = self._reducer.reduce(objects)


def _say_ready(ports: ControllerPorts) -> None:
    click.echo(f"meshnode controller: serving certificates on port {ports.ca}", err=True)
