"""What a worker is made of, put together: state, tunnels, data path, lanes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random

from mesh.jwt.fetch import KeyRing
from mesh.model.identity import SpiffeId
from mesh.telemetry.request_log import LogMode, RequestLog
from mesh.telemetry.trace_context import TraceStarter
from mesh.tunnel.contract import TunnelEngine
from mesh.tunnel.expired import ExpiredTunnels
from waypoint.codec.flush_queue import FlushQueue
from waypoint.downstream.front import Front
from waypoint.downstream.inbound import Inbound
from waypoint.downstream.opaque import Clocks, OpaqueConnections
from waypoint.exchange.proxy import Proxy
from waypoint.lane.h2_lane import Http2Lane
from waypoint.lane.host import Lane
from waypoint.lane.record import Log, Watch
from waypoint.lane.recorder import Observation
from waypoint.lane.select import build_lane, is_built
from waypoint.limits import ProxyLimits
from waypoint.resilience.protection import Vantage
from waypoint.security.authorize import Outside
from waypoint.security.custom.ask import Authorizers
from waypoint.state import WorkerState
from waypoint.telemetry.records import Records
from waypoint.upstream.pool import Pool
from waypoint.upstream.tunnels import UpstreamTunnels

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
        expired_grace_s: how long open requests may go on past the end of a certificate.
    """

    waypoint: str
    identity: SpiffeId
    cluster: str
    access_log: RequestLog
    trace_sampling: float | None = None
    trace_export: bool = False
    vantage: Vantage = field(default_factory=Vantage)
    expired_grace_s: float = 600.0

    @property
    def is_traced(self) -> bool:
        """Whether traces are made, which over HTTP/2 only Python does."""
        return self.trace_export or self.trace_sampling is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One of each; the lanes only where they are built and of use."""

    state: WorkerState
    records: Records
    expired: ExpiredTunnels
    upstream: UpstreamTunnels
    relays: OpaqueConnections
    pool: Pool
    proxy: Proxy
    front: Front
    inbound: Inbound
    lane: Lane | None
    h2_lane: Http2Lane | None


class Builder:
    """Builds the parts of one worker, inside a running event loop."""

    def __init__(
        self,
        options: WorkerOptions,
        engine: TunnelEngine,
        tasks: asyncio.TaskGroup,
        limits: ProxyLimits,
        keys: KeyRing,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._engine = engine
        self._tasks = tasks
        self._limits = limits
        self._random = random = Random()
        self._records = Records(options.cluster, options.access_log, random.random)
        self._traces = TraceStarter(
            options.trace_sampling, exports=options.trace_export, random=random
        )
        self._flushes = FlushQueue(self._loop)
        outside = Outside(
            keys=keys,
            # Its own connections are made of what the state knows, so the pool comes later.
            authorizers=Authorizers(lambda: self._pool, random),
            spawn=tasks.create_task,
            epoch_s=time.time,
            count=self._records.count,
        )
        self._state = WorkerState(options.waypoint, random, keys, outside, options.vantage)
        self._expired = ExpiredTunnels(options.expired_grace_s)
        self._upstream = UpstreamTunnels(
            self._loop, engine, self._state, self._spawn, self._expired
        )
        self._pool = Pool(self._loop, self._upstream, limits, self._spawn, self._flushes)
        self._proxy = self._build_proxy()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.create_task(work)

    def build(self) -> Parts:
        """Build everything that is not there yet. Only once."""
        state, records = self._state, self._records
        relays = OpaqueConnections(
            records,
            lambda origin: state.opaque_verdict(origin),
            Clocks(now=time.monotonic, epoch_s=time.time),
        )
        front = self._build_front(relays)
        inbound = Inbound(
            waypoint=self._options.waypoint,
            state=state,
            engine=self._engine,
            front=front,
            spawn=self._spawn,
            expired=self._expired,
        )
        return Parts(
            state=state,
            records=records,
            expired=self._expired,
            upstream=self._upstream,
            relays=relays,
            pool=self._pool,
            proxy=self._proxy,
            front=front,
            inbound=inbound,
            lane=self._build_lane(front) if is_built() else None,
            h2_lane=None if self._options.is_traced else self._build_h2_lane(front),
        )

    def _build_proxy(self) -> Proxy:
        proxy = Proxy(
            self._loop,
            limits=self._limits,
            pool=self._pool,
            router=self._state,
            record=self._records.record,
            random=self._random,
            identity=self._options.identity,
            traces=self._traces,
            span=self._records.span,
        )
        proxy.under_way.judge = self._state
        return proxy

    def _build_front(self, relays: OpaqueConnections) -> Front:
        return Front(
            self._loop,
            exchanges=self._proxy,
            limits=self._limits,
            engine=self._engine,
            opaque=self._state,
            opener=self._upstream,
            flushes=self._flushes,
            relays=relays,
            protocol=self._state.app_protocol,
        )

    def _build_h2_lane(self, front: Front) -> Http2Lane:
        lane = Http2Lane(
            self._loop,
            limits=self._limits,
            decider=self._state,
            proxy=self._proxy,
            random=self._random,
            traces=self._traces,
        )
        lane.watch(self._options.access_log.mode, tapped=False)
        front.h2_lane = self._pool.h2_lane = lane
        return lane

    def _build_lane(self, front: Front) -> Lane:
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
            limits=self._limits,
            decider=self._state,
            proxy=self._proxy,
            pool=self._pool,
            front=front,
            opener=self._upstream,
            spawn=self._spawn,
            random=self._random,
            observation=Observation(watch=watch, sink=self._records, traces=self._traces),
        )
        lane.allow_lines(self._records.lend_lines(0))  # the first report is yet to come
        return lane
