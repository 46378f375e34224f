"""One worker: serves what its listener accepts, and talks to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time

from mesh.jwt.fetch import KeyRing
from mesh.state.delta import apply_delta, decode_delta
from mesh.telemetry import names
from mesh.tunnel.contract import TunnelEngine
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
from waypoint.limits import ProxyLimits
from waypoint.parts import Builder, WorkerOptions
from waypoint.resilience.cluster_state import PolicyCounters, describe
from waypoint.security.issuers import issuer_states
from waypoint.upstream.target import Target

log = logging.getLogger(__name__)

TICK_S = 0.25
STATS_TICKS = 4
DRAIN_POLL_S = 0.05
ORPHAN_DRAIN_S = 30.0
MAX_UNSENT_BYTES = 4 << 20


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
        parts = Builder(options, engine, tasks, limits, keys).build()
        self._state, self._records = parts.state, parts.records
        self._expired, self._upstream = parts.expired, parts.upstream
        self._inbound, self._front, self._relays = parts.inbound, parts.front, parts.relays
        self._pool, self._proxy = parts.pool, parts.proxy
        self._lane, self._h2_lane = parts.lane, parts.h2_lane
        keys.on_removed = self._keys_removed
        self._policy_counters = PolicyCounters(self._records.count)
        self._told_cut = 0
        self._writer: asyncio.StreamWriter | None = None
        self._listening = False
        self._drain_s: asyncio.Future[float] = self._loop.create_future()

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
                    self._judge_requests_again("changed policy")
                self._state.settle()
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

    def _keys_removed(self) -> None:
        """An issuer took a key back: what it signed opens nothing any more."""
        self._judge_requests_again("removed keys")

    def _judge_requests_again(self, cause: str) -> None:
        ended = self._proxy.under_way.judge_again()
        if self._lane is not None:
            ended += self._lane.judge_again(self._state)
        if self._h2_lane is not None:
            ended += self._h2_lane.judge_again(self._state)
        if ended:
            revision = self._state.snapshot.revision
            log.info("revision %d: %d requests under way cut by %s", revision, ended, cause)

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
        self._retire_expired()
        self._pool.close_idle()
        self._upstream.close_idle()
        if self._lane is not None:
            self._lane.tick()
        if self._h2_lane is not None:
            self._h2_lane.tick()

    def _retire_expired(self) -> None:
        """Requests go no further on what a certificate proved than their grace lasts."""
        now = time.time()
        self._inbound.retire_expired()
        self._upstream.retire_expired(now)
        self._expired.end_overdue(now)
        cut, self._told_cut = self._expired.cut - self._told_cut, self._expired.cut
        if cut:
            self._records.count(names.EXPIRED_CUT.name, (), cut)

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
