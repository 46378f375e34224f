"""Connections that the kernel let go directly, or refused: turned into records, and judged again.

They never pass a worker. The kernel reports refused and ended ones through a ring buffer; open ones
stand in a map, so that a policy change reaches them too.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from agent.admin.view import FlowEvent
from agent.capture.flows import OpenFlow, destroy_flow, list_flows, mark_cut
from agent.capture.ringbuf import RingReader
from agent.capture.telemetry import (
    ClosedConnection,
    DeniedConnect,
    KernelEvent,
    Traffic,
    TrafficKey,
    TrafficReader,
    decode_event,
    read_reasons,
)
from agent.netns import open_netns
from agent.node.flow_events import flow_event
from agent.node.kernel import KernelPlane
from bpf.layout import Counted, PathKind, Reason
from mesh.errors import KernelError
from mesh.model.address import SocketAddress
from mesh.model.connection import ConnectionRecord, Path, Reporter, ResponseFlag
from mesh.model.kernel import VerdictReason
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import ConnectionFacts, Decision, Verdict
from mesh.model.workload import Workload
from mesh.policy.engine import PolicyIndex
from mesh.telemetry.party import party
from mesh.telemetry.tap import Tap

log = logging.getLogger(__name__)

_PATHS = {PathKind.DIRECT: Path.DIRECT, PathKind.PASSTHROUGH: Path.PASSTHROUGH}
_FLAGS = {
    Reason.DENY_POLICY: ResponseFlag.DENY,
    Reason.DENY_NO_ENDPOINT: ResponseFlag.NO_HEALTHY_UPSTREAM,
}
MAX_CUT_REMEMBERED = 4096
TRAFFIC_IDLE_S = 600.0
SETTLED_S = 2.5
"""Longer than the period for which the kernel tells of so many connections (`bpf/telemetry.h`)."""
_NO_ADDRESS = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class DirectTally:
    """Connections that the kernel counted; `record` is what they have in common."""

    record: ConnectionRecord
    traffic: Traffic


class DirectConnections:
    """The node's view of the kernel's own path."""

    def __init__(self, kernel: KernelPlane, get_snapshot: Callable[[], MeshSnapshot]) -> None:
        self._kernel = kernel
        self._get_snapshot = get_snapshot
        self._ring = RingReader(kernel.maps["mn_events"])
        self.flows: Tap[FlowEvent] = Tap()
        """For `meshnode bpf monitor`."""
        self._cut: dict[tuple[SocketAddress, SocketAddress], str] = {}
        self._traffic = TrafficReader(kernel.maps["mn_stats"])
        # What an earlier agent left was its own to count.
        left = self._traffic.read()
        self._active_at: dict[TrafficKey, float] = dict.fromkeys(left, time.monotonic())
        self._busy: dict[TrafficKey, float] = {}
        """Entries that events spoke of lately: since when nothing was added to them."""

    def close(self) -> None:
        self._ring.close()

    # -- records --------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable while `records()` has something."""
        return self._ring.fileno()

    @property
    def is_busy(self) -> bool:
        """More may have been counted than events tell of: call `tallies()` soon."""
        return bool(self._busy)

    def records(self) -> Iterator[tuple[ConnectionRecord, Counted]]:
        """Everything the kernel reported since the last call, and what of each the tallies have.
        Call it before policy changes: the numbers of reasons mean something else afterwards."""
        find = self._finder()
        for raw in self._ring.read():
            event = decode_event(raw)
            record = self._record(event, find(event.src_workload), find(event.dst_workload))
            if self.flows.watched:
                lost = read_reasons(self._kernel.maps).get(Reason.EVENT_LOST, 0)
                self.flows.publish(flow_event(event, record, lost))
            counted = event.counted if isinstance(event, ClosedConnection) else Counted(0)
            if counted and isinstance(event, ClosedConnection):
                self._busy[event.traffic_key] = time.monotonic()
            yield record, counted

    def tallies(self, *, all_of_them: bool = False) -> Iterator[DirectTally]:
        """What was counted since the last call: of the entries that `records()` met lately, or of
        all. Call it before policy changes, too."""
        now = time.monotonic()
        traffic = self._traffic
        found = traffic.read() if all_of_them else traffic.read_some(list(self._busy))
        find = self._finder()
        for key, change in found.items():
            self._busy[key] = self._active_at[key] = now
            yield DirectTally(
                record=self._common(key, find(key.src_workload), find(key.dst_workload)),
                traffic=change,
            )
        for key in [key for key, since in self._busy.items() if now - since > SETTLED_S]:
            del self._busy[key]

    def _finder(self) -> Callable[[int], Workload | None]:
        names = self._kernel.numbering.workload_names()
        workloads = self._get_snapshot().workloads

        def find(number: int) -> Workload | None:
            uid = names.get(number)
            return workloads.get(uid) if uid is not None else None

        return find

    def _common(
        self, key: TrafficKey, src: Workload | None, dst: Workload | None
    ) -> ConnectionRecord:
        """What the connections of an entry have in common."""
        service = self._get_snapshot().by_vip.get(key.vip) if key.vip is not None else None
        record = ConnectionRecord(
            reporter=Reporter.SOURCE,
            path=_PATHS[key.path],
            flag=ResponseFlag.NONE,
            src=party(src, src.identity if src else None),
            dst=party(dst, dst.identity if dst and dst.enrolled else None),
            src_addr=SocketAddress(_NO_ADDRESS, 0),
            dst_addr=SocketAddress(_NO_ADDRESS, key.port),
            opened_at=0.0,
            duration_s=0.0,
            bytes_sent=0,
            bytes_received=0,
            service=service.key if service else "",
        )
        if src is not None and dst is not None and key.path is PathKind.DIRECT:
            return _marked(record, self._kernel.policy.reason(src.uid, dst.uid, key.port))
        return record

    def _record(
        self, event: KernelEvent, src: Workload | None, dst: Workload | None
    ) -> ConnectionRecord:
        match event:
            case DeniedConnect():
                return self._denied(event, src, dst)
            case ClosedConnection():
                return self._closed(event, src, dst)

    def _base(
        self,
        event: KernelEvent,
        src: Workload | None,
        dst: Workload | None,
        src_addr: SocketAddress,
    ) -> ConnectionRecord:
        service = self._get_snapshot().by_vip.get(event.dialled.ip)
        return ConnectionRecord(
            reporter=Reporter.SOURCE,
            path=Path.DIRECT,
            flag=ResponseFlag.NONE,
            src=party(src, src.identity if src else None),
            dst=party(dst, dst.identity if dst and dst.enrolled else None),
            src_addr=src_addr,
            dst_addr=event.dst,
            opened_at=time.time() - (time.monotonic_ns() - event.time_ns) / 1e9,
            duration_s=0.0,
            bytes_sent=0,
            bytes_received=0,
            service=service.key if service else "",
        )

    def _denied(
        self, event: DeniedConnect, src: Workload | None, dst: Workload | None
    ) -> ConnectionRecord:
        same_family = [
            a for a in (src.addresses if src else ()) if a.version == event.dst.ip.version
        ]
        src_addr = SocketAddress(same_family[0] if same_family else event.dst.ip, 0)
        base = self._base(event, src, dst, src_addr)
        flag = _FLAGS.get(event.reason, ResponseFlag.CONNECT)
        if event.reason is not Reason.DENY_POLICY:
            return replace(base, flag=flag, detail=event.reason.name.lower())
        reasons = self._kernel.policy.reasons
        if event.policy_reason >= len(reasons):
            return replace(base, flag=flag, detail="denied by policy")
        why = reasons[event.policy_reason]
        verdict = Verdict(allowed=False, decision=why.decision, decided_by=why.decided_by)
        return replace(_marked(base, why), flag=flag, detail=str(verdict))

    def _closed(
        self, event: ClosedConnection, src: Workload | None, dst: Workload | None
    ) -> ConnectionRecord:
        base = self._base(event, src, dst, event.src)
        cut = self._cut.pop((event.src, event.dst), "")
        flag = ResponseFlag.NONE if event.established else ResponseFlag.CONNECT
        if src is not None and dst is not None and event.path is PathKind.DIRECT:
            base = _marked(base, self._kernel.policy.reason(src.uid, dst.uid, event.dst.port))
        return replace(
            base,
            path=_PATHS[event.path],
            flag=ResponseFlag.POLICY_CHANGE if cut else flag,
            detail=cut,
            opened_at=base.opened_at - event.duration_s,
            duration_s=event.duration_s,
            bytes_sent=event.bytes_sent,
            bytes_received=event.bytes_received,
        )

    def forget_idle_traffic(self, now: float) -> None:
        """Make room in the kernel's traffic counters (`meshnode bpf stats`): entries without a
        connection for ten minutes go. Read all tallies first. `now`: monotonic seconds."""
        idle = [key for key, at in self._active_at.items() if now - at > TRAFFIC_IDLE_S]
        self._traffic.forget(idle)
        for key in idle:
            del self._active_at[key]

    # -- open ones ------------------------------------------------------------------------------

    def open_flows(self) -> list[OpenFlow]:
        """Direct connections that are open now."""
        return list_flows(self._kernel.maps)

    def judge_again(self, policies: PolicyIndex) -> int:
        """End open direct connections that policy does not allow any more; how many."""
        snapshot = self._get_snapshot()
        names = self._kernel.numbering.workload_names()
        cut = 0
        for flow in self.open_flows():
            src_uid, dst_uid = names.get(flow.src_workload), names.get(flow.dst_workload)
            src = snapshot.workloads.get(src_uid) if src_uid else None
            dst = snapshot.workloads.get(dst_uid) if dst_uid else None
            verdict = _judge(policies, src, dst, flow)
            if not verdict.allowed:
                self._end(flow, src, dst, verdict)
                cut += 1
        return cut

    def _end(
        self, flow: OpenFlow, src: Workload | None, dst: Workload | None, verdict: Verdict
    ) -> None:
        if len(self._cut) < MAX_CUT_REMEMBERED:
            self._cut[flow.src, flow.dst] = f"policy changed: {verdict}"
        mark_cut(self._kernel.maps, flow)
        src_fd, dst_fd = _open(src), _open(dst)
        try:
            destroy_flow(flow, src_fd, dst_fd)
        except KernelError as error:
            log.error("%s to %s could not be cut: %s", flow.src, flow.dst, error)
        finally:
            for fd in (src_fd, dst_fd):
                if fd is not None:
                    os.close(fd)


def _marked(record: ConnectionRecord, why: VerdictReason | None) -> ConnectionRecord:
    """The record with the rules that decided, audited, or would have denied."""
    if why is None:
        return record
    return replace(
        record,
        policy=str(why.decided_by or ""),
        audited=tuple(map(str, why.audited)),
        dry_run=tuple(map(str, why.dry_run)),
    )


def _judge(
    policies: PolicyIndex, src: Workload | None, dst: Workload | None, flow: OpenFlow
) -> Verdict:
    if src is None or dst is None or not dst.enrolled:
        # Whose it was, nobody can tell any more: it may not go on unjudged.
        return Verdict(allowed=False, decision=Decision.UNKNOWN_DESTINATION)
    return policies.evaluate(
        dst, ConnectionFacts(principal=src.identity, src=flow.src, dst=flow.dst)
    )


def _open(workload: Workload | None) -> int | None:
    """The workload's namespace, if it can be found."""
    if workload is None or workload.netns is None:
        return None
    try:
        return open_netns(workload.netns)
    except KernelError:
        return None
