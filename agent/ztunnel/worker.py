"""One worker, put together: state from the node, pods from the holder, paths, engine, records."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agent.feed.messages import (
    MAX_LISTED,
    Closed,
    CredentialsChange,
    Drain,
    ListConnections,
    OpenConnections,
    Opened,
    Ready,
    SetLogLevel,
    SnapshotChange,
    ToNode,
    ToWorker,
    Watched,
    WorkerReader,
    WorkerStats,
    encode,
)
from agent.feed.records import to_wire
from agent.holder.protocol import Family, ListenerName, SocketKind
from agent.ztunnel.context import WorkerContext
from agent.ztunnel.doors import Doors
from agent.ztunnel.far_lanes import FarLane, FarLanes
from agent.ztunnel.inbound import Inbound
from agent.ztunnel.lane_records import LaneRecords
from agent.ztunnel.live import LiveConnections
from agent.ztunnel.near_lanes import NearLane
from agent.ztunnel.outbound import Outbound
from agent.ztunnel.plaintext import Plaintext
from agent.ztunnel.pods import ServedPods
from agent.ztunnel.recorder import Recorder
from agent.ztunnel.state import WorkerState
from mesh.errors import UpstreamError
from mesh.model.connection import ConnectionRecord
from mesh.model.workload import WorkloadUid
from mesh.state.delta import apply_delta, decode_delta
from mesh.tunnel.contract import RECORDS_PER_S, TunnelEngine
from mesh.tunnel.expired import ExpiredTunnels

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 0.1
EXPIRY_INTERVAL_S = 1.0
TURNS_PER_STATS = 2
TURNS_PER_PROGRESS = 5
"""Until the bytes of open connections are counted; the engine counts those of lanes itself."""
DRAIN_POLL_S = 0.05
WATCHED_RECORDS_PER_S = 20_000.0
"""While somebody looks, who then sees every connection but in the worst of storms."""
ORPHAN_DRAIN_S = 30.0
"""Drain time when SIGTERM comes from a new node process, which has no channel to us."""
UNSENT_LIMIT_BYTES = 16 << 20
"""Records are dropped, not hoarded, while a stopped node process does not read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """The two sockets a worker is born with."""

    control: socket.socket
    holder: socket.socket


class Worker:
    """Serves until told to drain. Build it inside a running event loop."""

    def __init__(
        self,
        channels: Channels,
        engine: TunnelEngine,
        expired_grace_s: float,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._channels = channels
        self._engine = engine
        self._tasks = tasks
        self._state = WorkerState()
        self._live = LiveConnections()
        self._lane_records = LaneRecords(
            lambda record: self._recorder.refused(record), self._tell, self._loop.call_soon
        )
        self._recorder = Recorder(self._emit, self._flush_soon, self._lane_records.progress)
        self._expired = ExpiredTunnels(expired_grace_s)
        context = WorkerContext(
            state=self._state,
            engine=engine,
            sockets=self,
            recorder=self._recorder,
            lane_records=self._lane_records,
            live=self._live,
            expired=self._expired,
            tasks=tasks,
        )
        self._outbound = Outbound(context)
        lanes = FarLanes(engine.lanes, self, self._lane_records, tasks)
        self._inbound = Inbound(context, lanes)
        self._plaintext = Plaintext(context)
        self._pods: ServedPods | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lost_records = 0
        self._draining = False
        self._drained = asyncio.Event()

    async def run(self) -> None:
        """Serve; return when drained."""
        self._loop.add_signal_handler(signal.SIGTERM, self._start_drain, ORPHAN_DRAIN_S)
        # Ctrl-C in a terminal reaches the whole group; the node process decides what it means.
        self._loop.add_signal_handler(signal.SIGINT, lambda: None)
        reader, self._writer = await asyncio.open_unix_connection(sock=self._channels.control)
        background = self._tasks.create_task(self._keep_reporting())
        following = self._tasks.create_task(self._follow_node(reader))
        await self._drained.wait()
        following.cancel()
        background.cancel()
        if self._pods is not None:
            self._pods.close()
        await self._engine.aclose()
        self._recorder.flush()
        self._lane_records.flush()
        with contextlib.suppress(OSError):
            await self._writer.drain()
        self._writer.close()

    # -- the node process -----------------------------------------------------------------------

    async def _follow_node(self, reader: asyncio.StreamReader) -> None:
        """Take in what the node says. Its end changes nothing: we go on with what we have."""
        decoder = WorkerReader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                for message in decoder.feed(data):
                    self._receive(message)
        log.warning("the node process is gone; serving on the last state")

    def _receive(self, message: ToWorker) -> None:
        match message:
            case SnapshotChange(delta=delta):
                snapshot = apply_delta(self._state.snapshot, decode_delta(delta))
                self._state.replace_snapshot(snapshot)
                self._outbound.lanes.retire_all()
                cut = self._live.judge_again(self._state)
                cut_lanes = self._inbound.lanes.judge_again(self._state)
                log.debug(
                    "revision %d; %d connections and %d lanes cut",
                    *(snapshot.revision, cut, cut_lanes),
                )
                # At once: somebody may be waiting until the change is in force everywhere.
                self._tell(self._stats())
                if self._pods is None:
                    self._open_doors()
            case CredentialsChange(valid=valid, gone=gone):
                self._state.change_credentials(valid, gone)
                self._inbound.drop_untrusted()
            case SetLogLevel(level=level):
                logging.getLogger().setLevel(level.upper())
            case Watched(is_watched=is_watched):
                if self._engine.lanes is not None:
                    rate = WATCHED_RECORDS_PER_S if is_watched else RECORDS_PER_S
                    self._engine.lanes.tell(rate)
            case Drain(timeout_s=timeout_s):
                self._start_drain(timeout_s)
            case ListConnections(request=request):
                self._tasks.create_task(self._list(request))

    async def _list(self, request: int) -> None:
        """Say what is open, longest first."""
        records = self._recorder.open_records()
        if self._engine.lanes is not None:
            records += [
                lane.describe(record)
                for lane, record in await self._engine.lanes.listed(MAX_LISTED)
                if isinstance(lane, NearLane | FarLane)
            ]
        oldest = sorted(records, key=lambda r: r.opened_at)[:MAX_LISTED]
        self._tell(OpenConnections(request=request, records=[to_wire(r) for r in oldest]))

    def _open_doors(self) -> None:
        """The first snapshot is here: serve the pods."""
        self._pods = ServedPods(
            self._channels.holder,
            {
                ListenerName.OUTBOUND4: self._outbound.accepted,
                ListenerName.OUTBOUND6: self._outbound.accepted,
                ListenerName.PLAINTEXT: self._plaintext.accepted,
                ListenerName.HBONE: self._inbound.accepted,
            },
            lambda: self._tell(Ready(revision=self._state.snapshot.revision)),
            self._inbound.send_away,
            Doors(
                self._engine.lanes,
                self._outbound.accepted,
                self._outbound.lanes.group,
                self._pod_closed,
            ),
        )

    def _pod_closed(self, uid: WorkloadUid) -> None:
        self._inbound.pod_closed(uid)
        self._outbound.pod_closed(uid)

    async def get(self, uid: WorkloadUid, family: Family, kind: SocketKind) -> socket.socket:
        """A socket in a pod's namespace (`SocketSource` of every path)."""
        if self._pods is None:
            raise UpstreamError("no pods are served yet")
        return await self._pods.get(uid, family, kind)

    async def get_many(
        self, uid: WorkloadUid, family: Family, kind: SocketKind, count: int
    ) -> list[socket.socket]:
        """The same, several."""
        if self._pods is None:
            raise UpstreamError("no pods are served yet")
        return await self._pods.get_many(uid, family, kind, count)

    # -- reports --------------------------------------------------------------------------------

    def _emit(self, opened: Sequence[ConnectionRecord], closed: Sequence[ConnectionRecord]) -> None:
        if opened:
            self._tell(Opened(records=[to_wire(r) for r in opened]), len(opened))
        if closed:
            self._tell(Closed(records=[to_wire(r) for r in closed]), len(closed))

    def _flush_soon(self) -> None:
        self._loop.call_later(FLUSH_INTERVAL_S, self._recorder.flush)

    def _tell(self, message: ToNode, records: int = 0) -> None:
        if self._writer is None or self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > UNSENT_LIMIT_BYTES:
            self._lost_records += records
            return
        self._writer.write(encode(message))

    async def _keep_reporting(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL_S)
            turn += 1
            self._outbound.retire_expired()
            self._inbound.retire_expired()
            self._expired.end_overdue(time.time())
            if turn % TURNS_PER_PROGRESS == 0:
                self._recorder.report_progress()
            if turn % TURNS_PER_STATS == 0:
                self._outbound.close_idle()
                self._inbound.lanes.tidy()
                self._tell(self._stats())

    @property
    def _in_lanes(self) -> int:
        return self._engine.lanes.connections if self._engine.lanes is not None else 0

    def _stats(self) -> WorkerStats:
        return WorkerStats(
            revision=self._state.snapshot.revision,
            inbound_tunnels=len(self._inbound.tunnels),
            outbound_tunnels=len(self._outbound.pool.tunnels()),
            connections=len(self._live) + self._outbound.open_connections + self._in_lanes,
            identities=self._state.identities,
            lost_records=self._lost_records,
            expired_cut=self._expired.cut,
        )

    # -- the end --------------------------------------------------------------------------------

    def _start_drain(self, timeout_s: float) -> None:
        if not self._draining:
            self._draining = True
            self._tasks.create_task(self._drain(timeout_s))

    async def _drain(self, timeout_s: float) -> None:
        """Accept no more; tell the peers (GOAWAY); wait for what is open, up to the deadline."""
        log.info("draining for %.0f s at most", timeout_s)
        if self._pods is not None:
            self._pods.stop_accepting()
        for tunnel in list(self._inbound.tunnels):
            tunnel.drain(timeout_s)
        for _ in range(int(timeout_s / DRAIN_POLL_S)):
            await self._catch_up()
            if not self._recorder.under_way and not self._in_lanes:
                break
            await asyncio.sleep(DRAIN_POLL_S)
        self._drained.set()

    async def _catch_up(self) -> None:
        """Hear of every connection that the engine has accepted or given back so far."""
        lanes = self._engine.lanes
        if lanes is not None:
            # What is asked now is answered after those events. Twice: the first may be the answer
            # to a question that was under way already.
            for _ in range(2):
                await lanes.listed(0)
