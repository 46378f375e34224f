"""Starts the ztunnel workers, feeds them, and starts them again when they die.

A worker outlives the node process on purpose: it goes on serving on the last state. The next node
process finds it by its file in `workers/`, and asks it to drain once its own workers are ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.feed.messages import (
    Closed,
    CredentialsChange,
    Drain,
    ListConnections,
    NodeReader,
    OpenConnections,
    Opened,
    Ready,
    SetLogLevel,
    SnapshotChange,
    Tallies,
    Told,
    ToNode,
    ToWorker,
    Watched,
    WorkerStats,
    encode,
)
from agent.feed.records import from_wire
from agent.node.records import Records
from agent.node.strangers import process_start_ticks
from agent.paths import NodePaths
from mesh.errors import ConfigError, MeshnodeError, RemoteProtocolError
from mesh.model.connection import ConnectionRecord
from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot
from mesh.state.delta import SnapshotDelta, diff, encode_delta

log = logging.getLogger(__name__)

RESTART_BACKOFF_S = (0.0, 0.2, 1.0, 5.0)
STABLE_AFTER_S = 10.0
SILENCE_CHECK_S = 2.0
MAX_SILENT_CHECKS = 6
"""A worker reports every two seconds; one that is silent for twelve is stuck, and clients that
wait for it are to be told within twenty."""
READ_BYTES = 256 * 1024
ANSWER_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What every worker of a node is started with."""

    paths: NodePaths
    count: int
    cgroup: Path
    uid: int
    gid: int
    log_level: str
    drain_timeout_s: float
    expired_grace_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDelta:
    """The way from a snapshot to the next, as it is sent."""

    base: MeshSnapshot
    encoded: bytes


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process and what it was told last."""

    index: int
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent: MeshSnapshot
    ready: bool = False
    stats: WorkerStats | None = None
    started_s: float = field(default_factory=time.monotonic)
    retired: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it ended, or was told to end: another takes its place."""
    ended: bool = False
    silent_checks: int = 0
    """Turns of the watch in a row without a word of it."""
    questions: dict[int, asyncio.Future[list[ConnectionRecord]]] = field(default_factory=dict)
    """Questions for open connections that wait for an answer."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def age_s(self) -> float:
        return time.monotonic() - self.started_s

    def send(self, message: ToWorker) -> None:
        if not self.writer.is_closing():
            self.writer.write(encode(message))

    def send_snapshot(self, snapshot: MeshSnapshot, known: KnownDelta | None = None) -> None:
        """Send what is new to it; `known`: the encoded way to the snapshot from another one."""
        if known is not None and known.base is self.sent:
            encoded = known.encoded
        else:
            encoded = encode_delta(diff(self.sent, snapshot))
        self.sent = snapshot
        self.send(SnapshotChange(delta=encoded))


class WorkerSupervisor:
    """All workers of a node. Use `run()` as a task; the other methods are synchronous."""

    def __init__(
        self, options: WorkerOptions, open_holder_channel: Callable[[], int], records: Records
    ) -> None:
        self._options = options
        self._open_holder_channel = open_holder_channel
        self._records = records
        self._snapshot = MeshSnapshot(revision=0)
        self._credentials: dict[SpiffeId, Credentials] = {}
        self._level = options.log_level
        self._watched = Watched(is_watched=False)
        self._stopping = False
        self.workers: dict[int, Worker] = {}
        self.restarts = 0
        self._changed = asyncio.Event()
        self._last_question = 0

    # -- what workers are told ----------------------------------------------------------------

    def update_snapshot(self, snapshot: MeshSnapshot, delta: SnapshotDelta | None = None) -> None:
        """Send the difference to every worker; `delta`: the way from the last one, if known."""
        before, self._snapshot = self._snapshot, snapshot
        known = None
        if delta is not None and (delta.base, delta.revision) == (
            before.revision,
            snapshot.revision,
        ):
            known = KnownDelta(base=before, encoded=encode_delta(delta))
        for worker in self.workers.values():
            worker.send_snapshot(snapshot, known)

    def update_credentials(
        self, valid: Iterable[Credentials], gone: Iterable[SpiffeId] = ()
    ) -> None:
        """Send new certificates, and the identities that have none any more."""
        valid, gone = list(valid), list(gone)
        for identity in gone:
            self._credentials.pop(identity, None)
        self._credentials.update({c.svid.identity: c for c in valid})
        self._broadcast(CredentialsChange(valid=valid, gone=gone))

    def set_log_level(self, level: str) -> None:
        self._level = level
        self._broadcast(SetLogLevel(level=level))

    def set_watched(self, is_watched: bool) -> None:
        """Whether somebody looks at single connections."""
        self._watched = Watched(is_watched=is_watched)
        self._broadcast(self._watched)

    def _broadcast(self, message: ToWorker) -> None:
        for worker in self.workers.values():
            worker.send(message)

    async def connections(self) -> list[ConnectionRecord]:
        """What is open in all workers; a worker that does not answer in time is left out."""
        self._last_question += 1
        answers = []
        for worker in self.workers.values():
            answer = asyncio.get_running_loop().create_future()
            worker.questions[self._last_question] = answer
            worker.send(ListConnections(request=self._last_question))
            answers.append(answer)
        if answers:
            await asyncio.wait(answers, timeout=ANSWER_TIMEOUT_S)
        return [r for answer in answers if answer.done() for r in answer.result()]

    # -- life cycle ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep every worker running until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            for index in range(self._options.count):
                group.create_task(self._keep(index, group))

    async def _watch(self) -> None:
        """Kill a worker that hangs: its connections would hang with it, others can serve them.

        Turns are counted, not seconds: a node process that was stopped for a while must not
        take its own silence for that of the workers.
        """
        while True:
            await asyncio.sleep(SILENCE_CHECK_S)
            for worker in self.workers.values():
                worker.silent_checks += 1
                if worker.ready and worker.silent_checks > MAX_SILENT_CHECKS:
                    log.error("ztunnel worker %d (pid %d) hangs", worker.index, worker.pid)
                    with contextlib.suppress(ProcessLookupError):
                        worker.process.kill()

    def roll(self) -> None:
        """Replace every worker by a new one; the old ones finish what they have open."""
        for worker in self.workers.values():
            worker.send(Drain(timeout_s=self._options.drain_timeout_s))
            worker.retired.set()

    async def wait_ready(self) -> None:
        """Return once every worker has state."""
        while not self.all_ready():
            await self._changed.wait()

    def all_ready(self) -> bool:
        ready = [w for w in self.workers.values() if w.ready]
        return len(ready) == self._options.count

    async def drain(self, timeout_s: float) -> None:
        """Ask every worker to finish and end; kill what is left after the deadline."""
        self._stopping = True
        self._broadcast(Drain(timeout_s=timeout_s))
        workers = list(self.workers.values())
        try:
            async with asyncio.timeout(timeout_s + 2.0):
                for worker in workers:
                    await worker.process.wait()
        except TimeoutError:
            for worker in workers:
                if worker.process.returncode is None:
                    log.warning("worker %d did not drain in time, killed", worker.pid)
                    worker.process.kill()
                    await worker.process.wait()

    async def _keep(self, index: int, group: asyncio.TaskGroup) -> None:
        failures = 0
        while not self._stopping:
            await asyncio.sleep(RESTART_BACKOFF_S[min(failures, len(RESTART_BACKOFF_S) - 1)])
            try:
                worker = await self._start(index)
            except (MeshnodeError, OSError) as error:
                # The holder may be restarting at this moment: its supervisor brings it back.
                log.warning("ztunnel worker %d cannot start yet: %s", index, error)
                failures += 1
                continue
            group.create_task(self._attend(worker))
            await worker.retired.wait()
            died_young = worker.ended and worker.age_s() < STABLE_AFTER_S
            failures = failures + 1 if died_young else 0
            self.restarts += 1

    async def _start(self, index: int) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        holder_fd = -1
        with theirs:
            try:
                holder_fd = await asyncio.to_thread(self._open_holder_channel)
                process = await asyncio.create_subprocess_exec(
                    *self._command(index, theirs.fileno(), holder_fd),
                    pass_fds=(theirs.fileno(), holder_fd),
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
            finally:
                if holder_fd >= 0:
                    os.close(holder_fd)
        self._pid_file(process.pid).write_text(f"{process_start_ticks(process.pid)}\n")
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=READ_BYTES)
        worker = Worker(index, process, reader, writer, MeshSnapshot(revision=0))
        self.workers[index] = worker
        worker.send(CredentialsChange(valid=list(self._credentials.values()), gone=[]))
        worker.send(SetLogLevel(level=self._level))
        if self._watched.is_watched:
            worker.send(self._watched)
        worker.send_snapshot(self._snapshot)
        return worker

    def _command(self, index: int, control_fd: int, holder_fd: int) -> list[str]:
        options = self._options
        return [
            sys.executable, "-m", "agent.ztunnel",
            "--node", options.paths.node,
            "--index", str(index),
            "--control-fd", str(control_fd),
            "--holder-fd", str(holder_fd),
            "--cgroup", str(options.cgroup),
            "--uid", str(options.uid),
            "--gid", str(options.gid),
            "--log-level", self._level,
            "--expired-grace-s", str(options.expired_grace_s),
        ]  # fmt: skip

    def _pid_file(self, pid: int) -> Path:
        self._options.paths.workers_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._options.paths.workers_dir / str(pid)

    # -- what workers say ---------------------------------------------------------------------

    async def _attend(self, worker: Worker) -> None:
        """Read a worker's messages until it ends or says nonsense, and clear up after it."""
        reader = NodeReader()
        try:
            while data := await worker.reader.read(READ_BYTES):
                for message in reader.feed(data):
                    self._receive(worker, message)
        except (RemoteProtocolError, ConfigError) as error:
            log.error("ztunnel worker %d (pid %d): %s; killed", worker.index, worker.pid, error)
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
        except ConnectionError:
            pass  # It died: `_keep` reports how.
        finally:
            worker.ready = False
            worker.writer.close()
        code = await worker.process.wait()
        self._pid_file(worker.pid).unlink(missing_ok=True)
        if self.workers.get(worker.index) is worker:
            del self.workers[worker.index]
        worker.ended = True
        if not worker.retired.is_set():
            worker.retired.set()
            if not self._stopping:
                log.error("ztunnel worker %d (pid %d) ended: %s", worker.index, worker.pid, code)

    def _receive(self, worker: Worker, message: ToNode) -> None:
        match message:
            case Ready():
                worker.ready = True
                self._changed.set()
                self._changed = asyncio.Event()
            case Opened(records=records):
                self._records.opened([from_wire(r) for r in records])
            case Closed(records=records):
                self._records.closed([from_wire(r) for r in records])
            case Tallies(tallies=tallies):
                self._records.tallies(tallies)
            case Told(records=records):
                for record in records:
                    self._records.show(from_wire(record))
            case WorkerStats():
                worker.stats = message
                worker.silent_checks = 0
            case OpenConnections(request=request, records=records):
                waiting = worker.questions.pop(request, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result([from_wire(r) for r in records])
