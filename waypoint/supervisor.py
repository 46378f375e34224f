"""Starts the workers, feeds them, and starts them again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mesh.errors import ConfigError, RemoteProtocolError
from mesh.model.address import SocketAddress
from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot
from mesh.model.span import Span, SpanCounts
from mesh.state.delta import diff, encode_delta
from mesh.telemetry.event_counts import EventCounts
from mesh.telemetry.metrics import MeshMetrics
from mesh.telemetry.requests import RequestMetrics
from waypoint.feed import (
    Connections,
    Counts,
    CredentialsChange,
    Drain,
    Lines,
    Ready,
    SnapshotChange,
    Spans,
    Stats,
    Tally,
    TapChange,
    Tapped,
    ToSupervisor,
    ToWorker,
    encode,
    supervisor_reader,
)
from waypoint.options import WaypointOptions
from waypoint.shared.select import SharedMemory, new_memory
from waypoint.telemetry.connection_counts import count_connections
from waypoint.telemetry.tap import TapFilter
from waypoint.telemetry.tap_stream import TapReaders

log = logging.getLogger(__name__)

RESTART_BACKOFF_S = (0.0, 0.2, 1.0, 5.0)
STABLE_AFTER_S = 10.0
_EMPTY = MeshSnapshot(revision=0)


class SpanSink(Protocol):
    """Where spans go (`mesh.telemetry.otlp`)."""

    def offer(self, span: Span) -> None: ...
    def add_dropped(self, count: int) -> None: ...
    @property
    def counts(self) -> SpanCounts: ...


@dataclass(slots=True, eq=False)
class WorkerHandle:
    """One living worker."""

    writer: asyncio.StreamWriter
    sent: MeshSnapshot = _EMPTY
    ready: bool = False
    stats: Stats | None = None

    def send(self, message: ToWorker) -> None:
        if not self.writer.is_closing():
            self.writer.write(encode(message))


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """The workers of one waypoint.

    Attributes:
        write: takes lines of the access log; unwritten: how many of them were lost.
        spans: where spans go, None: nowhere.
    """

    options: WaypointOptions
    identity: SpiffeId
    metrics: RequestMetrics
    connections: MeshMetrics
    counts: EventCounts
    write: Callable[[str], object]
    unwritten: Callable[[], int] = lambda: 0
    spans: SpanSink | None = None
    snapshot: MeshSnapshot = _EMPTY
    credentials: dict[SpiffeId, Credentials] = field(default_factory=dict)
    workers: dict[int, WorkerHandle] = field(default_factory=dict)
    taps: TapReaders = field(init=False)
    restarts: int = 0
    stopping: bool = False
    memory: SharedMemory | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.taps = TapReaders(self._change_taps)

    def _change_taps(self, filters: list[TapFilter]) -> None:
        for worker in self.workers.values():
            worker.send(TapChange(taps=filters))

    @property
    def is_ready(self) -> bool:
        """Every worker serves, with a certificate to show."""
        ready = [worker for worker in self.workers.values() if worker.ready]
        everybody = len(ready) == self.options.workers
        return everybody and bool(self.credentials) and not self.stopping

    def replace_snapshot(self, snapshot: MeshSnapshot) -> None:
        """Tell every worker what changed."""
        self.snapshot = snapshot
        for worker in self.workers.values():
            self._send_snapshot(worker)

    def _send_snapshot(self, worker: WorkerHandle) -> None:
        worker.send(SnapshotChange(delta=encode_delta(diff(worker.sent, self.snapshot))))
        worker.sent = self.snapshot

    def change_credentials(
        self, valid: tuple[Credentials, ...], gone: tuple[SpiffeId, ...]
    ) -> None:
        for identity in gone:
            self.credentials.pop(identity, None)
        self.credentials |= {item.svid.identity: item for item in valid}
        for worker in self.workers.values():
            worker.send(CredentialsChange(valid=list(valid), gone=list(gone)))

    async def run(self) -> None:
        """Keep the workers alive until they were all told to drain and have ended."""
        with contextlib.ExitStack() as stack:
            self.memory = new_memory(self.options.workers)
            if self.memory is not None:
                stack.callback(self.memory.close)
            await self._keep_all()

    async def _keep_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for index in range(self.options.workers):
                tasks.create_task(self._keep(index))

    def drain(self) -> None:
        """Tell every worker to finish; `run` returns when they have."""
        self.stopping = True
        for worker in self.workers.values():
            worker.send(Drain(timeout_s=self.options.drain_timeout_s))

    async def _keep(self, index: int) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self.stopping:
            began = loop.time()
            code = await self._run_once(index)
            if self._is_stopping():
                return
            self.restarts += 1
            failures = 0 if loop.time() - began > STABLE_AFTER_S else failures + 1
            delay = RESTART_BACKOFF_S[min(failures, len(RESTART_BACKOFF_S) - 1)]
            log.error("worker %d ended with %s; another starts in %g s", index, code, delay)
            await asyncio.sleep(delay)

    def _is_stopping(self) -> bool:
        return self.stopping

    async def _run_once(self, index: int) -> int:
        listener = listen(self.options.listen)
        ours, theirs = socket.socketpair()
        limits = [] if self.memory is None else [self.memory.descriptor]
        with listener, theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command(index, theirs.fileno(), listener.fileno()),
                *(f"--limits-fd={descriptor}" for descriptor in limits),
                pass_fds=(theirs.fileno(), listener.fileno(), *limits),
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        worker = self.workers[index] = WorkerHandle(writer)
        try:
            if self.snapshot.revision:
                self._send_snapshot(worker)
            worker.send(CredentialsChange(valid=list(self.credentials.values()), gone=[]))
            if self.taps.filters:
                worker.send(TapChange(taps=self.taps.filters))
            if self.stopping:
                worker.send(Drain(timeout_s=self.options.drain_timeout_s))
            await self._listen_to(worker, reader)
        finally:
            del self.workers[index]
            writer.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            code = await process.wait()
            if self.memory is not None:
                self.memory.forget(index)
        return code

    def _command(self, index: int, control: int, listener: int) -> list[str]:
        options = self.options
        sampling, log = options.trace_sampling, options.access_log
        return [
            *(sys.executable, "-m", "waypoint", "--name", options.name, "--index", str(index)),
            *("--identity", str(self.identity), "--cluster", self.snapshot.settings.cluster),
            *("--access-log", str(log.mode), "--access-log-share", str(log.share)),
            *(() if log.rate_per_s is None else ("--access-log-rate", str(log.rate_per_s))),
            *("--node", options.node, "--workers", str(options.workers)),
            *("--expired-grace-s", str(options.expired_grace_s)),
            *(() if sampling is None else ("--trace-sampling", str(sampling))),
            *(("--trace-export",) if self.spans is not None else ()),
            *("--control-fd", str(control), "--listener-fd", str(listener)),
        ]

    async def _listen_to(self, worker: WorkerHandle, reader: asyncio.StreamReader) -> None:
        """Until the worker is gone; it parses hostile bytes, so it isn't believed blindly."""
        messages = supervisor_reader()
        try:
            while data := await reader.read(1 << 18):
                for message in messages.feed(data):
                    self._handle(worker, message)
        except (RemoteProtocolError, ConnectionError) as error:
            log.error("a worker is ended: %s", error)

    def _export(self, message: Spans) -> None:
        if self.spans is not None:
            self.spans.add_dropped(message.dropped)
            for span in message.spans:
                self.spans.offer(span)

    def _handle(self, worker: WorkerHandle, message: ToSupervisor) -> None:
        match message:
            case Ready():
                worker.ready = True
            case Tally():
                self.metrics.add(message.series)
            case Tapped():
                self.taps.offer(message.tap, message.events, message.lost)
            case Connections():
                count_connections(self.connections, message)
            case Spans():
                self._export(message)
            case Counts():
                self.connections.count_policy(message.counts)
                self.counts.add(message.counts)
            case Lines():
                self.write(message.text)
            case Stats():
                worker.stats = message


def listen(address: SocketAddress) -> socket.socket:
    """A listener that shares its port with those of the other workers (SO_REUSEPORT).

    Raises `ConfigError`.
    """
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((str(address.ip), address.port))
        sock.listen(4096)
    except OSError as error:
        sock.close()
        raise ConfigError(f"--listen {address}: {error.strerror}") from error
    return sock
