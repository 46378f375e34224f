"""The controller of a cluster, put together: CA, election, and the leader's work."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from controller.kubernetes.admission import Admission, AdmissionSetup, serve_admission
from controller.kubernetes.bundle import BundlePublisher, Roots
from controller.kubernetes.ca_secret import CaSecret
from controller.kubernetes.client import KubeClient
from controller.kubernetes.election import Clocks, LeaderElection
from controller.kubernetes.leader import LatestMesh, Leader, Work
from controller.kubernetes.status_writer import StatusWriter
from controller.kubernetes.token_review import Account, TokenReviewAuthenticator
from controller.kubernetes.waypoint_keeper import WaypointKeeper
from controller.lease import LeaseTiming
from controller.run import ControllerPorts, ControllerSettings, run_controller
from controller.waypoints.manifests import WaypointSettings
from mesh.errors import ConfigError
from mesh.identity.arrivals import PATIENCE_S, Arrivals
from mesh.identity.directory import SnapshotDirectory
from mesh.identity.state_dir import StateDir
from mesh.sources.kubernetes.backoff import Backoff
from mesh.sources.kubernetes.config import load_configuration
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import CONTROLLER_RESOURCES
from mesh.sources.kubernetes.source import KubernetesSource, open_kubernetes
from mesh.sources.kubernetes.transport import KubeApi
from mesh.stopping import until_stopped

log = logging.getLogger(__name__)

SECRET_POLL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """A controller in a cluster.

    Attributes:
        kubeconfig: None = the service account of the pod we run in.
        namespace: of the controller: its Lease, and the Secret with the CA's keys.
        identity: of this replica among others: the pod's name.
        agents: the account whose tokens speak for their nodes.
        waypoints: None = run none.
        webhook_port: None = no admission webhook.
        patience_s: how long a certificate for a pod that nobody has heard of is not refused.
    """

    kubeconfig: Path | None
    namespace: str
    identity: str
    agents: Account
    waypoints: WaypointSettings | None = None
    webhook_port: int | None = None
    lease: LeaseTiming = field(default_factory=LeaseTiming)
    retry_s: float = 5.0
    patience_s: float = PATIENCE_S


async def run_cluster_controller(
    cluster: ClusterSettings,
    settings: ControllerSettings,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[ControllerPorts], None],
) -> None:
    """Serve and, while we lead, work until `stop` is set.

    Raises `ConfigError` for an API server that cannot be found, or keys that cannot be used.
    """
    access = await load_configuration(cluster.kubeconfig)
    async with (
        KubeApi(access) as api,
        open_kubernetes(access, resources=CONTROLLER_RESOURCES) as source,
    ):
        secret = CaSecret(KubeClient(api), cluster.namespace, settings.state_dir)
        mesh = await until_stopped(_begin(source, secret), stop)
        if mesh is None:
            return
        async with AsyncExitStack() as stack:
            state_dir = StateDir(settings.state_dir)
            admission = await _admission(cluster, mesh, state_dir, stack)
            election = _election(api, cluster, lambda: lead())
            client = KubeClient(api, may_write=election.may_write)
            lead = _leader(cluster, source, client, mesh, state_dir, admission)
            authenticator = TokenReviewAuthenticator(api, cluster.agents, now=time.monotonic)
            directory = SnapshotDirectory(lambda: mesh.snapshot)
            arrivals = Arrivals(directory, lambda: mesh.changed, patience_s=cluster.patience_s)
            async with _background(mesh, secret, election, admission):
                await run_controller(
                    settings,
                    directory=directory,
                    clock=time.time,
                    random_bytes=os.urandom,
                    stop=stop,
                    on_ready=on_ready,
                    authenticator=authenticator,
                    arrivals=arrivals,
                )


def _election(
    api: KubeApi, cluster: ClusterSettings, work: Callable[[], Coroutine[None, None, None]]
) -> LeaderElection:
    return LeaderElection(
        api,
        namespace=cluster.namespace,
        identity=cluster.identity,
        clocks=Clocks(now=time.monotonic, wall=time.time, random=random.random),
        work=work,
        timing=cluster.lease,
    )


async def _admission(
    cluster: ClusterSettings, mesh: LatestMesh, state_dir: StateDir, stack: AsyncExitStack
) -> Admission | None:
    """The webhook, which every replica serves; `stack` closes it."""
    if cluster.webhook_port is None:
        return None
    setup = AdmissionSetup(cluster.namespace, state_dir, cluster.webhook_port)
    return await serve_admission(setup, lambda: mesh.objects, stack)


def _leader(
    cluster: ClusterSettings,
    source: KubernetesSource,
    client: KubeClient,
    mesh: LatestMesh,
    state_dir: StateDir,
    admission: Admission | None,
) -> Callable[[], Coroutine[None, None, None]]:
    leader = Leader(
        mesh,
        _work(cluster, client, source),
        roots=lambda: _roots(state_dir),
        retry_s=cluster.retry_s,
    )
    return lambda: leader.lead(admission.configuration if admission is not None else None)


@asynccontextmanager
async def _background(
    mesh: LatestMesh, secret: CaSecret, election: LeaderElection, admission: Admission | None
) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(mesh.follow()),
            group.create_task(_keep_secret(secret, election.leads)),
            group.create_task(election.run()),
            *([group.create_task(admission.run())] if admission is not None else []),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _begin(source: KubernetesSource, secret: CaSecret) -> LatestMesh:
    """Who runs where, and the keys, before the first request is answered."""
    changes = source.watch()
    mesh = LatestMesh(await anext(changes), changes)
    backoff = Backoff(random.random)
    while True:
        try:
            await secret.open(
                trust_domain=mesh.snapshot.settings.trust_domain,
                now=time.time,
                random_bytes=os.urandom,
            )
        except KubeError as error:
            log.warning("the CA's keys: %s", error)
            await asyncio.sleep(backoff.next_s(error.retry_after_s))
        else:
            return mesh


def _work(cluster: ClusterSettings, client: KubeClient, source: KubernetesSource) -> Work:
    keeper = WaypointKeeper(client, cluster.waypoints) if cluster.waypoints is not None else None
    return Work(
        client=client,
        status=StatusWriter(client, version=source.version, wall=time.time),
        waypoints=keeper,
        bundles=BundlePublisher(client),
    )


def _roots(state_dir: StateDir) -> Roots:
    state, _ = state_dir.load_ca()
    return Roots(
        server_pem=state_dir.load_server_root().roots_pem.decode(),
        bundle_pem=state.bundle.roots_pem.decode(),
    )


async def _keep_secret(secret: CaSecret, leads: asyncio.Event) -> None:
    """Keep the working copy and the Secret the same; trouble is waited out."""
    backoff = Backoff(random.random)
    while True:
        try:
            await secret.follow()
            if leads.is_set():
                await secret.save()
        except (KubeError, ConfigError) as error:
            log.warning("the CA's Secret: %s", error)
            await asyncio.sleep(backoff.next_s())
        else:
            backoff.reset()
        await asyncio.sleep(SECRET_POLL_S)
