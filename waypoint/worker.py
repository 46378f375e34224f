"""One worker: listener, tunnels, front, data path, and the channel to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random

from mesh.jwt.fetch import KeyRing
from mesh.model.identity import SpiffeId
from mesh.state.delta import apply_delta, decode_delta
from mesh.telemetry.request_log import LogMode, RequestLog
from mesh.telemetry.trace_context import TraceStarter
from mesh.tunnel.contract import TunnelEngine
from waypoint.authorize import Outside
from waypoint.cluster_state import PolicyCounters, describe
from waypoint.custom.ask import Authorizers
from waypoint.feed import (
    CredentialsChange,
    Drain,
    EndpointState,
    Lines,
    Ready,
    SnapshotChange,
    Stats,
    TapChange,
    ToSupervisor,
    ToWorker,
    encode,
    worker_reader,
)
from waypoint.flush_queue import FlushQueue
from waypoint.front import Front
from waypoint.h2_lane import Http2Lane
from waypoint.inbound import Inbound
from waypoint.issuers import issuer_states
from waypoint.lane.host import Lane
from waypoint.lane.record import Log, Watch
from waypoint.lane.recorder import Observation
from waypoint.lane.select import build_lane, is_built
from waypoint.limits import ProxyLimits
from waypoint.opaque import Clocks, OpaqueConnections
from waypoint.pool import Pool
from waypoint.protection import Vantage
from waypoint.proxy import Proxy
from waypoint.records import Records
from waypoint.state import WorkerState
from waypoint.target import Target
from waypoint.upstream_tunnels import UpstreamTunnels

log = logging.getLogger(__name__)

TICK_S = 0.25
STATS_TICKS = 4
DRAIN_POLL_S = 0.05
ORPHAN_DRAIN_S = 30.0
MAX_UNSENT_BYTES = 4 << 20
_LANE_LOG = {LogMode.OFF: Log.NONE, LogMode.TEXT: Log.ALL, LogMode.JSON: Log.ALL}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker is told.

    Attributes:
        waypoint: `<namespace>/<name>`.
        identity: its own, for headers.
        trace_sampling: share of new traces that are sampled, None: none begins.
        trace_export: spans are wanted.
        vantage: where it stands among endpoints and workers.
    """

    waypoint: str
    identity: SpiffeId
    cluster: str
    access_log: RequestLog
    trace_sampling: float | None = None
    trace_export: bool = False
    vantage: Vantage = field(default_factory=Vantage)


class Worker:
    """Serves until told to drain. Build it inside a running event loop."""

    def __init__(
        self,
        options: WorkerOptions,
        engine: TunnelEngine,
        tasks: asyncio.TaskGroup,
        limits: ProxyLimits,
        keys: KeyRing,
    ) -> None:
        self._keys = keys
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._engine = engine
        self._tasks = tasks
        random = Random()
        self._records = records = Records(options.cluster, options.access_log, random.random)
        self._policy_counters = PolicyCounters(records.count)
        self._traces = TraceStarter(
            options.trace_sampling, exports=options.trace_export, random=random
        )
        self._state = state = WorkerState(
            options.waypoint, random, keys, self._outside(random), options.vantage
        )
        self._upstream = UpstreamTunnels(self._loop, engine, state, self._spawn)
        flushes = FlushQueue(self._loop)
        self._relays = OpaqueConnections(
            records,
            lambda origin: state.opaque_verdict(origin),
            Clocks(now=time.monotonic, epoch_s=time.time),
        )
        self._pool = Pool(self._loop, self._upstream, limits, self._spawn, flushes)
        self._proxy = self._build_proxy(limits, random)
        self._front = Front(
            self._loop,
            exchanges=self._proxy,
            limits=limits,
            engine=engine,
            opaque=state,
            opener=self._upstream,
            flushes=flushes,
            relays=self._relays,
            protocol=state.app_protocol,
        )
        self._lane = self._build_lane(limits, random) if is_built() else None
        self._h2_lane = None if self._is_traced() else self._build_h2_lane(limits, random)
        self._inbound = self._build_inbound()
        self._writer: asyncio.StreamWriter | None = None
        self._listening = False
        self._drain_s: asyncio.Future[float] = self._loop.create_future()

    def _outside(self, random: Random) -> Outside:
        return Outside(
            keys=self._keys,
            # Its own connections are made of what the state knows, so the pool comes later.
            authorizers=Authorizers(lambda: self._pool, random),
            spawn=self._tasks.create_task,
            epoch_s=time.time,
            count=self._records.count,
        )

    def _build_proxy(self, limits: ProxyLimits, random: Random) -> Proxy:
        proxy = Proxy(
            self._loop,
            limits=limits,
            pool=self._pool,
            router=self._state,
            record=self._records.record,
            random=random,
            identity=self._options.identity,
            traces=self._traces,
            span=self._records.span,
        )
        proxy.under_way.judge = self._state
        return proxy

    def _is_traced(self) -> bool:
        """Whether traces are made, which over HTTP/2 only Python does."""
        return self._options.trace_export or self._options.trace_sampling is not None

    def _build_h2_lane(self, limits: ProxyLimits, random: Random) -> Http2Lane:
        lane = Http2Lane(
            self._loop,
            limits=limits,
            decider=self._state,
            proxy=self._proxy,
            random=random,
            traces=self._traces,
        )
        lane.watch(self._options.access_log.mode, tapped=False)
        self._front.h2_lane = self._pool.h2_lane = lane
        return lane

    def _build_lane(self, limits: ProxyLimits, random: Random) -> Lane:
        options = self._options
        watch = Watch(
            log=_LANE_LOG.get(options.access_log.mode, Log.ERRORS),
            log_share=options.access_log.share,
            log_json=options.access_log.mode.is_json,
            traces=True,
            sampling=options.trace_sampling,
            exports=options.trace_export,
        )
        lane = build_lane(
            self._loop,
            limits=limits,
            decider=self._state,
            proxy=self._proxy,
            pool=self._pool,
            front=self._front,
            opener=self._upstream,
            spawn=self._spawn,
            random=random,
            observation=Observation(watch=watch, sink=self._records, traces=self._traces),
        )
        lane.allow_lines(self._records.lend_lines(0))  # the first report is yet to come
        return lane

    def _build_inbound(self) -> Inbound:
        return Inbound(
            waypoint=self._options.waypoint,
            state=self._state,
            engine=self._engine,
            front=self._front,
            spawn=self._spawn,
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.create_task(work)

    async def run(self, control: socket.socket, listener: socket.socket) -> None:
        """Serve; return when drained."""
        self._loop.add_signal_handler(signal.SIGTERM, self._start_drain, ORPHAN_DRAIN_S)
        # Ctrl-C reaches the whole group; the supervisor decides what it means.
        self._loop.add_signal_handler(signal.SIGINT, lambda: None)
        reader, self._writer = await asyncio.open_unix_connection(sock=control)
        background = [
            self._tasks.create_task(self._follow(reader, listener)),
            self._tasks.create_task(self._report()),
        ]
        timeout_s = await self._drain_s
        if self._listening:
            self._loop.remove_reader(listener)
        listener.close()
        await self._finish(timeout_s)
        for task in background:
            task.cancel()
        self._flush_records()
        with contextlib.suppress(OSError):
            await self._writer.drain()
        self._writer.close()

    async def _finish(self, timeout_s: float) -> None:
        self._inbound.drain(timeout_s)
        self._front.drain()
        if self._lane is not None:
            self._lane.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                # What ends last has no single event: codecs, exchanges.
                while self._is_busy():  # noqa: ASYNC110 - see above
                    await asyncio.sleep(DRAIN_POLL_S)
        if self._lane is not None:
            self._lane.cut()
            self._records.add(self._lane.take())
            self._lane.close()
        if self._h2_lane is not None:
            self._h2_lane.cut()
        self._pool.close_all()
        await self._engine.aclose()

    def _is_busy(self) -> bool:
        clients = self._lane.clients if self._lane is not None else 0
        return bool(self._front.servers or self._proxy.active or clients)

    def _start_drain(self, timeout_s: float) -> None:
        if not self._drain_s.done():
            self._drain_s.set_result(timeout_s)

    # --- supervisor -----------------------------------------------------------------------------

    async def _follow(self, reader: asyncio.StreamReader, listener: socket.socket) -> None:
        """Take what the supervisor sends. When it dies, so do we, after a drain."""
        messages = worker_reader()
        while data := await reader.read(1 << 18):
            for message in messages.feed(data):
                self._handle(message, listener)
        self._start_drain(ORPHAN_DRAIN_S)

    def _handle(self, message: ToWorker, listener: socket.socket) -> None:
        match message:
            case SnapshotChange():
                snapshot = apply_delta(self._state.snapshot, decode_delta(message.delta))
                self._state.replace_snapshot(snapshot)
                self._relays.judge_again()
                if self._state.policy_changed:
                    self._judge_requests_again()
                if self._lane is not None:
                    self._lane.forget()
                if self._h2_lane is not None:
                    self._h2_lane.forget()
            case CredentialsChange():
                self._state.change_credentials(message.valid, message.gone)
            case TapChange():
                watched = self._records.taps.replace(message.taps)
                self._proxy.tap = self._records.taps.offer if watched else None
                if self._lane is not None:
                    self._lane.tap(message.taps)
                if self._h2_lane is not None:
                    self._h2_lane.watch(self._options.access_log.mode, tapped=watched)
            case Drain():
                self._start_drain(message.timeout_s)
        if not self._listening and self._state.snapshot.revision and self._state.own():
            self._listening = True
            self._loop.add_reader(listener, self._accept, listener)
            self._send(Ready(revision=self._state.snapshot.revision))

    def _judge_requests_again(self) -> None:
        ended = self._proxy.under_way.judge_again()
        if self._h2_lane is not None:
            ended += self._h2_lane.judge_again(self._state)
        if ended:
            revision = self._state.snapshot.revision
            log.info("revision %d: %d requests under way cut by policy", revision, ended)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors: the client waits in the backlog
            log.error("accept: %s", error)
            return
        sock.setblocking(False)
        self._inbound.accepted(sock)

    def _send(self, message: ToSupervisor) -> None:
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() < MAX_UNSENT_BYTES:
            writer.write(encode(message))
        elif isinstance(message, Lines):
            self._records.lose(logged=message.text.count("\n"), tapped=0, traced=0)

    # --- records --------------------------------------------------------------------------------

    def _flush_records(self) -> None:
        if self._lane is not None:
            self._records.add(self._lane.take())
            left = self._lane.allow_lines(0)
            self._lane.allow_lines(self._records.lend_lines(left))
        if self._h2_lane is not None:
            self._records.add(self._h2_lane.take())
        for message in self._records.take():
            self._send(message)

    async def _report(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            self._flush_records()
            ticks += 1
            if ticks % STATS_TICKS == 0:
                self._policy_counters.tell(self._state.protections, self._proxy.fair)
                self._close_idle()
                self._send(self._stats())

    def _endpoint(self, target: Target) -> EndpointState:
        active, idle = self._lane.load(target) if self._lane is not None else (0, 0)
        if self._h2_lane is not None:
            active += self._h2_lane.load(target)
        return EndpointState(
            address=str(target.key.address),
            workload=target.dst.workload,
            active=target.active + active,
            idle=len(target.idle) + len(target.multiplexed) + idle,
        )

    def _close_idle(self) -> None:
        self._proxy.under_way.tick()
        self._state.protections.tick()
        self._relays.tick()
        self._pool.close_idle()
        self._upstream.close_idle()
        if self._lane is not None:
            self._lane.tick()
        if self._h2_lane is not None:
            self._h2_lane.tick()

    def _stats(self) -> Stats:
        return Stats(
            revision=self._state.snapshot.revision,
            tunnels=len(self._inbound.tunnels),
            requests=self._proxy.active,
            lost_lines=self._records.lost_lines,
            endpoints=[self._endpoint(target) for target in self._state.endpoints.targets()],
            clusters=describe(self._state.protections, self._proxy.now()),
            issuers=issuer_states(self._keys.status().values()),
        )
