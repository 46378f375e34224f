"""`meshnode waypoint`: build a waypoint from its options, run it, wind it up."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import uvloop
from prometheus_client import CollectorRegistry

from mesh.errors import ConfigError
from mesh.identity.client import CaClient, TokenFile
from mesh.identity.directory import SnapshotDirectory
from mesh.identity.host import CaHost
from mesh.identity.rotation import Priority
from mesh.identity.source import CertificateSource
from mesh.identity.state_dir import StateDir
from mesh.identity.store import CertificateStore
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot
from mesh.run_files import WAYPOINTS
from mesh.sources.file import FileSource
from mesh.sources.kubernetes.config import load_configuration
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.objects import ObjectSet
from mesh.state.reducer import Reducer
from mesh.stopping import until_stopped
from mesh.telemetry.event_counts import EventCounts
from mesh.telemetry.metrics import MeshMetrics
from mesh.telemetry.names import WAYPOINT_COUNTERS
from mesh.telemetry.requests import RequestMetrics
from mesh.telemetry.window_feed import RecentTraffic
from waypoint.admin import serve_admin
from waypoint.options import CaAddress, CaDirectory, ClusterSource, WaypointOptions
from waypoint.supervisor import Supervisor
from waypoint.telemetry.gauges import WaypointState
from waypoint.telemetry.line_writer import LineWriter

if TYPE_CHECKING:
    from mesh.telemetry.otlp import SpanExport

log = logging.getLogger(__name__)


def run_waypoint(options: WaypointOptions) -> None:
    """Run a waypoint until SIGTERM or SIGINT. Raises `MeshnodeError` if it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    uvloop.run(_serve(options))


async def _serve(options: WaypointOptions) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        changes = await _open_changes(options, stack)
        await _run(options, changes, stop)


async def _open_changes(
    options: WaypointOptions, stack: AsyncExitStack
) -> AsyncGenerator[ObjectSet, None]:
    if not isinstance(options.source, ClusterSource):
        return FileSource(options.source).watch()
    access = await load_configuration(options.source.kubeconfig)
    source = await stack.enter_async_context(open_kubernetes(access))
    return source.watch()


async def _run(
    options: WaypointOptions, changes: AsyncGenerator[ObjectSet, None], stop: asyncio.Event
) -> None:
    reducer = Reducer()
    objects = await until_stopped(anext(changes), stop)
    if objects is None:
        return
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        lines = LineWriter(_write)
        stack.callback(lines.close)
        supervisor = _new_supervisor(options, reducer.reduce(objects), registry, lines)
        source = await _open_source(options, supervisor, stack)
        store = CertificateStore(source, clock=time.time, random=random.random)
        store.set_wanted({supervisor.identity: Priority.NOW})
        WaypointState(registry, supervisor)
        if options.otlp_endpoint:
            supervisor.spans = _open_export(options, stack)
        await stack.enter_async_context(serve_admin(supervisor, registry, options.admin, WAYPOINTS))
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(store.run()),
                tasks.create_task(_follow_certificates(store, supervisor)),
                tasks.create_task(_follow_objects(changes, reducer, supervisor)),
            ]
            workers = tasks.create_task(supervisor.run())
            await stop.wait()
            log.info("stopping: open requests have %.0f s", options.drain_timeout_s)
            supervisor.drain()
            await workers
            for task in background:
                task.cancel()


def _new_supervisor(
    options: WaypointOptions, snapshot: MeshSnapshot, registry: CollectorRegistry, lines: LineWriter
) -> Supervisor:
    recent = RecentTraffic(f"waypoint/{options.name}", now=time.monotonic, clock=time.time)
    identity = SpiffeId(
        trust_domain=snapshot.settings.trust_domain,
        namespace=options.name.partition("/")[0],
        service_account=options.service_account,
    )
    return Supervisor(
        options=options,
        identity=identity,
        metrics=RequestMetrics(registry, time.monotonic, recent),
        connections=MeshMetrics(registry, now=time.monotonic, cluster=snapshot.settings.cluster),
        counts=EventCounts(registry, WAYPOINT_COUNTERS),
        write=lines.put,
        unwritten=lambda: lines.dropped,
        snapshot=snapshot,
    )


def _open_export(options: WaypointOptions, stack: AsyncExitStack) -> SpanExport:
    # OpenTelemetry's SDK costs 30 MiB and a third of a second: only for who wants spans.
    from mesh.telemetry.otlp import open_export

    namespace, _, name = options.name.partition("/")
    attributes = {
        "service.name": name,
        "service.namespace": namespace,
        "service.instance.id": f"{options.node}/{name}",
        "meshnode.component": "waypoint",
    }
    export = open_export(options.otlp_endpoint, attributes, options.otlp_ca)
    stack.push_async_callback(asyncio.to_thread, export.close)
    return export


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def _open_source(
    options: WaypointOptions, supervisor: Supervisor, stack: AsyncExitStack
) -> CertificateSource:
    match options.ca:
        case CaAddress() as ca:
            try:
                token = ca.token_file.read_text().strip()
            except OSError as error:
                raise ConfigError(f"{ca.token_file} cannot be read: {error.strerror}") from error
            client = CaClient(host=ca.host, port=ca.port, token=_token(ca, token))
            return await stack.enter_async_context(client)
        case CaDirectory() as directory:

            def snapshot() -> MeshSnapshot:
                return supervisor.snapshot

            host = CaHost(
                StateDir(directory.state_dir),
                directory=SnapshotDirectory(snapshot),
                clock=time.time,
                random_bytes=random.SystemRandom().randbytes,
            )
            stack.push_async_callback(host.stop)
            return host.source(options.node)


def _token(ca: CaAddress, token: str) -> str | TokenFile:
    if ca.root_file is None:
        return token
    try:
        root_pem = ca.root_file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{ca.root_file} cannot be read: {error.strerror}") from error
    return TokenFile(path=ca.token_file, server_root_pem=root_pem)


async def _follow_certificates(store: CertificateStore, supervisor: Supervisor) -> None:
    async for update in store.updates():
        supervisor.change_credentials(update.valid, update.gone)


async def _follow_objects(
    changes: AsyncIterator[ObjectSet], reducer: Reducer, supervisor: Supervisor
) -> None:
    async for objects in changes:
        snapshot = reducer.reduce(objects)
        if snapshot is not supervisor.snapshot:
            supervisor.replace_snapshot(snapshot)
