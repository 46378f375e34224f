"""`meshnode agent`: build the node from its options, run it, wind it up."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import NoReturn, TextIO

import uvloop
from prometheus_client import CollectorRegistry, ProcessCollector

from agent.admin.server import Gate, serve_admin, serve_metrics, serve_view
from agent.admin.view import LogLevel
from agent.capture.cgroup import agent_cgroup_path, make_agent_cgroup
from agent.capture.flows import owner_of
from agent.capture.pins import refuse_other_schemas
from agent.cni.sandboxes import Sandboxes
from agent.kubernetes.container import open_sysctls
from agent.kubernetes.observed import open_observed_state
from agent.kubernetes.operator import open_gate
from agent.node.certificates import open_source
from agent.node.changes import Changes, open_changes
from agent.node.cni import keep_plugin, serve_plugin
from agent.node.holder import HolderKeeper
from agent.node.kernel import KernelPlane, run_loader
from agent.node.lock import node_lock
from agent.node.memory import give_back_memory
from agent.node.node import Node
from agent.node.spans import export_connections, open_sink
from agent.node.view import View
from agent.options import AgentOptions, KubernetesOption
from agent.paths import NodePaths
from mesh.errors import ConfigError, KernelError
from mesh.identity.store import CertificateStore
from mesh.sources.objects import ObjectSet
from mesh.stopping import until_stopped
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import MeshMetrics
from mesh.telemetry.node_metrics import NodeCollector
from mesh.telemetry.window_feed import RecentTraffic

log = logging.getLogger(__name__)


def run_agent(options: AgentOptions) -> None:
    """Run a node's agent until SIGTERM or SIGINT. Raises `MeshnodeError` if it cannot start."""
    if os.geteuid() != 0:
        raise KernelError("meshnode agent", hint="It needs root: run it with sudo.")
    logging.basicConfig(
        level=str(options.log_level).upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    # They write several kilobytes for every netlink message, and a line for every file event.
    for library in ("pyroute2", "watchfiles"):
        logging.getLogger(library).setLevel(logging.WARNING)
    if open_sysctls():
        log.info("made /proc/sys writable for this container")
    paths = NodePaths(options.node)
    with ExitStack() as stack:
        stack.enter_context(node_lock(paths, wait=options.hand_over))
        refuse_other_schemas(paths)
        access_log = _open_access_log(options, stack)
        uvloop.run(_serve(options, paths, access_log))


def _open_access_log(options: AgentOptions, stack: ExitStack) -> AccessLog:
    stream: TextIO = sys.stdout
    if options.access_log_file is not None:
        try:
            stream = stack.enter_context(options.access_log_file.open("a", buffering=1))
        except OSError as error:
            raise ConfigError(f"{options.access_log_file}: {error.strerror}") from error

    def write(line: str) -> None:
        stream.write(line)
        stream.flush()

    access_log = AccessLog(write, options.access_log, now=time.monotonic)
    stack.callback(access_log.close)
    return access_log


async def _serve(options: AgentOptions, paths: NodePaths, access_log: AccessLog) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run_loader(paths)
    make_agent_cgroup(paths)
    async with AsyncExitStack() as stack:
        holder = HolderKeeper(paths, agent_cgroup_path(paths))
        stack.callback(holder.close)
        await holder.ensure()
        kernel = KernelPlane(paths, options.cgroup)
        stack.callback(kernel.close)
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        recent = RecentTraffic(f"node/{options.node}", now=time.monotonic, clock=time.time)
        node = Node(
            options=options,
            paths=paths,
            access_log=access_log,
            kernel=kernel,
            holder=holder,
            metrics=MeshMetrics(registry, now=time.monotonic, recent=recent),
            recent=recent,
        )
        stack.callback(node.direct.close)
        stack.push_async_callback(node.canary.aclose)
        sandboxes = Sandboxes()
        changes = await open_changes(options, stack, sandboxes)
        objects = await until_stopped(anext(changes.objects), stop)
        if objects is None:
            return
        node.reduce(objects)
        if options.cni is not None:
            plugin = serve_plugin(node, options.cni, paths, sandboxes)
            await stack.enter_async_context(plugin)
        await _run(node, changes, stop, stack, registry, paths)


async def _run(
    node: Node,
    changes: Changes,
    stop: asyncio.Event,
    stack: AsyncExitStack,
    registry: CollectorRegistry,
    paths: NodePaths,
) -> None:
    """Everything that needs the first snapshot; ends when `stop` is set."""
    options = node.options
    source, ca = await open_source(options, lambda: node.snapshot, stack)
    store = CertificateStore(source, clock=time.time, random=random.random)
    node.use_store(store)
    view = _view(node, store, changes.silence_s)
    NodeCollector(registry, view.readings)
    await _serve_people(view, registry, options, paths, stack)
    node.pods.want(node.snapshot.local_workloads(node.options.node))
    node.pods.recall(await node.holder.known_pods())
    async with asyncio.TaskGroup() as tasks:
        works = [
            *_duties(node, store, changes, paths),
            *([ca.run()] if ca is not None else []),
            *await _observers(node, stack),
            *await _spans(node, stack),
        ]
        background = [tasks.create_task(work) for work in works]
        node.apply()
        give_back_memory()
        await stop.wait()
        if options.hand_over:
            _leave_to_the_next(node)
        log.info("stopping: open connections have %.0f s", node.options.drain_timeout_s)
        await node.workers.drain(node.options.drain_timeout_s)
        for task in background:
            task.cancel()


def _duties(
    node: Node, store: CertificateStore, changes: Changes, paths: NodePaths
) -> Sequence[Coroutine[None, None, None]]:
    """What every agent does as long as it runs."""
    options = node.options
    return (
        store.run(),
        node.follow_certificates(store),
        node.workers.run(),
        node.enrol(),
        node.clear_strangers(),
        node.watch_holder(),
        node.watch_kernel(),
        node.guard_kernel(),
        _follow(node, changes.objects),
        *([keep_plugin(options.cni, paths)] if options.cni is not None else []),
    )


async def _serve_people(
    view: View,
    registry: CollectorRegistry,
    options: AgentOptions,
    paths: NodePaths,
    stack: AsyncExitStack,
) -> None:
    """Answer the command line, the API server's proxy and Prometheus; `stack` ends it."""
    gate = await _gate(options, stack)
    await stack.enter_async_context(serve_admin(view, paths.admin_socket))
    await stack.enter_async_context(serve_view(view, options.view, owner_of, gate))
    await stack.enter_async_context(serve_metrics(view, registry, options.metrics))


async def _gate(options: AgentOptions, stack: AsyncExitStack) -> Gate | None:
    """Who may change the log level from afar; where nobody asks from afar, nobody."""
    if options.view is None or not isinstance(options.source, KubernetesOption):
        return None
    return await open_gate(
        options.source.kubeconfig, options.node, stack, now=time.monotonic, clock=time.time
    )


async def _observers(node: Node, stack: AsyncExitStack) -> Sequence[Coroutine[None, None, None]]:
    """Whoever is told what became of each pod: on Kubernetes, the pod."""
    source = node.options.source
    if not isinstance(source, KubernetesOption):
        return ()
    observed = await open_observed_state(source.kubeconfig, node.pods.statuses, stack)
    return (observed.run(),)


async def _spans(node: Node, stack: AsyncExitStack) -> Sequence[Coroutine[None, None, None]]:
    options = node.options
    if not (options.otlp_endpoint and options.trace_sampling):
        return ()
    sink = await open_sink(options.otlp_endpoint, options.otlp_ca, options.node, stack)
    return (export_connections(node.tap, sink, options.trace_sampling, random.Random()),)


def _leave_to_the_next(node: Node) -> NoReturn:
    """End at once: workers and holder go on, and the next agent drains the workers once its own
    are ready. That is what a crash does, so there is one way to recover and not two."""
    log.info("stopping: workers and listeners are left to the next agent")
    node.access_log.close()
    logging.shutdown()
    # Not by way of the event loop: it would kill the workers, which are its children.
    os._exit(0)


async def _follow(node: Node, changes: AsyncIterator[ObjectSet]) -> None:
    async for objects in changes:
        if node.reduce(objects):
            node.apply()


def _view(node: Node, store: CertificateStore, silence_s: Callable[[], float]) -> View:
    def set_level(level: LogLevel) -> None:
        logging.getLogger().setLevel(str(level).upper())
        node.workers.set_log_level(str(level))

    return View(node=node, store=store, set_level=set_level, silence_s=silence_s)
