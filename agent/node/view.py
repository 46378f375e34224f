"""What the node shows to people: `NodeView` for the admin server, readings for metrics."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path as FilePath

from agent.admin.view import (
    BpfDiff,
    CertificateState,
    CertificateStatus,
    DiffEntry,
    DiffKind,
    FlowEvent,
    HolderStatus,
    KernelEntries,
    LiveConnection,
    LogLevel,
    NodeStatus,
    PodState,
    WorkerStatus,
)
from agent.capture import inspect
from agent.capture.tables import names_of, plain_table
from agent.capture.telemetry import read_reasons
from agent.capture.views import KernelTable
from agent.node.node import Node
from bpf.layout import Reason
from mesh.errors import KernelError
from mesh.identity.store import CertificateStore
from mesh.model.connection import ConnectionRecord, Path, Reporter
from mesh.model.snapshot import MeshSnapshot, Problem
from mesh.routing.problems import routing_problems
from mesh.telemetry.node_metrics import MapFill, NodeReadings
from mesh.telemetry.tap import Tap
from mesh.telemetry.window_answer import Traffic


def meshnode_version() -> str:
    """Version of the installed package."""
    try:
        return version("meshnode")
    except PackageNotFoundError:
        return "unknown"


class View:
    """Reads the parts of the node; changes nothing but the log level."""

    def __init__(
        self,
        *,
        node: Node,
        store: CertificateStore,
        set_level: Callable[[LogLevel], None],
        silence_s: Callable[[], float],
    ) -> None:
        self._node = node
        self._options = node.options
        self._kernel = node.kernel
        self._direct = node.direct
        self._holder = node.holder
        self._workers = node.workers
        self._pods = node.pods
        self._store = store
        self._set_level = set_level
        self._silence_s = silence_s
        self._level = node.options.log_level
        self._started_at = time.time()

    # -- NodeView -------------------------------------------------------------------------------

    def snapshot(self) -> MeshSnapshot:
        return self._node.snapshot

    def set_log_level(self, level: LogLevel) -> None:
        self._level = level
        self._set_level(level)

    def status(self) -> NodeStatus:
        snapshot = self._node.snapshot
        return NodeStatus(
            node=self._options.node,
            version=meshnode_version(),
            pid=os.getpid(),
            started_at=self._started_at,
            source=str(self._options.source),
            revision=snapshot.revision,
            applied_revision=self._applied(snapshot),
            log_level=self._level,
            not_ready=tuple(self._not_ready()),
            pods=tuple(self._pods.statuses()),
            workers=tuple(self._worker_statuses()),
            holder=HolderStatus(pid=self._holder.pid, alive=_is_alive(self._holder.pid)),
            problems=(
                *snapshot.problems,
                *routing_problems(snapshot),
                *self._own_problems(),
            ),
            certificates=tuple(self._certificates()),
            open_connections=self._open_by_path(),
        )

    def traffic(self, seconds: float, *, points: bool, about: str) -> Traffic:
        return self._node.recent.answer(seconds, points=points, about=about)

    @property
    def tap(self) -> Tap[ConnectionRecord]:
        return self._node.tap

    @property
    def flows(self) -> Tap[FlowEvent]:
        return self._direct.flows

    async def connections(self) -> Sequence[LiveConnection]:
        """Open connections: the workers' and the direct ones."""
        relayed = [_live(record) for record in await self._workers.connections()]
        return [*relayed, *await asyncio.to_thread(self._direct_connections)]

    async def bpf_diff(self) -> BpfDiff:
        return await asyncio.to_thread(self._diff)

    async def kernel_table(self, table: KernelTable) -> KernelEntries:
        return await asyncio.to_thread(self._table, table)

    # -- readings -------------------------------------------------------------------------------

    def readings(self) -> NodeReadings:
        """The numbers for one scrape."""
        status = self.status()
        reasons = read_reasons(self._kernel.maps)
        stats = [w.stats for w in self._workers.workers.values() if w.stats is not None]
        return NodeReadings(
            version=status.version,
            revision=status.revision,
            kernel_events={r.name.lower(): n for r, n in reasons.items() if n},
            pods={state: sum(p.state is state for p in status.pods) for state in PodState},
            workers_ready=sum(w.ready for w in status.workers),
            workers_starting=sum(not w.ready for w in status.workers),
            worker_restarts=self._workers.restarts,
            worker_revision=min((s.revision for s in stats), default=None),
            tunnels=sum(s.inbound_tunnels + s.outbound_tunnels for s in stats),
            expired_cut=sum(s.expired_cut for s in stats),
            records_lost=sum(s.lost_records for s in stats),
            streams=sum(s.connections for s in stats),
            open_connections=status.open_connections,
            certificate_expiry={
                c.identity: c.not_after for c in status.certificates if c.not_after
            },
            problems=Counter(str(p.severity) for p in status.problems),
            source_silence_s=self._silence_s(),
            ring_lost=reasons.get(Reason.EVENT_LOST, 0),
            access_log_dropped=self._node.access_log.dropped,
            maps=self._map_fill(),
        )

    def _map_fill(self) -> dict[str, MapFill]:
        return {
            view.name: MapFill(entries=view.entries, capacity=view.max_entries)
            for view in inspect.maps(self._options.node)
            if view.entries is not None
        }

    # -- parts ----------------------------------------------------------------------------------

    def _applied(self, snapshot: MeshSnapshot) -> int:
        served = [w.stats.revision for w in self._workers.workers.values() if w.stats is not None]
        return min([snapshot.revision, *served])

    def _not_ready(self) -> list[str]:
        reasons = []
        if self._node.snapshot.revision == 0:
            reasons.append("the source has not been read yet")
        if not self._workers.all_ready():
            reasons.append("not every ztunnel worker is ready")
        if not self._pods.settled.is_set():
            reasons.append("pods of the node are still being enrolled")
        return reasons

    def _own_problems(self) -> list[Problem]:
        problems = []
        if self._kernel.problem:
            problems.append(Problem(where="kernel", subject="maps", message=self._kernel.problem))
        if self._store.bundle_error:
            problems.append(
                Problem(where="CA", subject="trust bundle", message=self._store.bundle_error)
            )
        return problems

    def _worker_statuses(self) -> list[WorkerStatus]:
        return [
            WorkerStatus(
                pid=worker.pid,
                ready=worker.ready,
                revision=worker.stats.revision if worker.stats else 0,
                tunnels=(
                    worker.stats.inbound_tunnels + worker.stats.outbound_tunnels
                    if worker.stats
                    else 0
                ),
                streams=worker.stats.connections if worker.stats else 0,
                rss_bytes=_rss_bytes(worker.pid),
            )
            for _, worker in sorted(self._workers.workers.items())
        ]

    def _certificates(self) -> list[CertificateStatus]:
        return [
            CertificateStatus(
                identity=status.identity.principal,
                state=CertificateState(str(status.state)),
                serial=status.serial,
                not_before=status.not_before or 0.0,
                not_after=status.not_after or 0.0,
                next_renewal_at=status.next_fetch_at or 0.0,
                reason=status.last_error,
            )
            for status in self._store.statuses()
        ]

    def _open_by_path(self) -> dict[str, int]:
        workers = self._workers.workers.values()
        return {
            str(Path.DIRECT): len(self._direct.open_flows()),
            str(Path.HBONE): sum(w.stats.connections for w in workers if w.stats is not None),
        }

    def _direct_connections(self) -> list[LiveConnection]:
        names = self._kernel.numbering.workload_names()
        now, monotonic_ns = time.time(), time.monotonic_ns()
        return [
            LiveConnection(
                reporter=Reporter.SOURCE,
                path=Path.DIRECT,
                src_addr=str(flow.src),
                dst_addr=str(flow.dst),
                opened_at=now - (monotonic_ns - flow.started_ns) / 1e9,
                src=names.get(flow.src_workload, ""),
                dst=names.get(flow.dst_workload, ""),
            )
            for flow in self._direct.open_flows()
        ]

    def _table(self, table: KernelTable) -> KernelEntries:
        node = self._options.node
        entries = plain_table(node, table)
        workloads, services = names_of(node)
        return KernelEntries(
            node=node, table=table, entries=entries, workloads=workloads, services=services
        )

    def _diff(self) -> BpfDiff:
        state = self._kernel.state()
        if state is None:
            raise KernelError("bpf diff", hint="The node has no state yet; try again.")
        entries = tuple(
            DiffEntry(
                map=d.map,
                kind=_diff_kind(d.desired, d.actual),
                key=d.key,
                wanted=d.desired,
                found=d.actual,
            )
            for d in inspect.diff(self._options.node, state)
        )
        compared = (
            len(state.pods) + len(state.workloads) + len(state.services) + len(state.verdicts)
        )
        return BpfDiff(
            node=self._options.node,
            revision=self._node.snapshot.revision,
            compared=compared,
            entries=entries,
        )


def _live(record: ConnectionRecord) -> LiveConnection:
    return LiveConnection(
        reporter=record.reporter,
        path=record.path,
        src_addr=str(record.src_addr),
        dst_addr=str(record.dst_addr),
        opened_at=record.opened_at,
        src=record.src.workload,
        dst=record.dst.workload,
        src_identity=record.src.identity,
        dst_identity=record.dst.identity,
        service=record.service,
    )


def _diff_kind(desired: str, actual: str) -> DiffKind:
    if not actual:
        return DiffKind.MISSING
    return DiffKind.DIFFERENT if desired else DiffKind.EXTRA


def _is_alive(pid: int) -> bool:
    return pid > 0 and FilePath(f"/proc/{pid}").exists()


def _rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 if it is gone."""
    try:
        pages = FilePath(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
