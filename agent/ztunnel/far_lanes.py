"""Inbound streams that the engine carries by itself: same tunnel, same authority, same verdict.

A lane is laid after policy admitted a connection and the application answered it. It rests on the
snapshot: with the next one no connection takes it any more, and the connections it has are judged
again; if they are denied now, they are cut.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from agent.feed.records import WireRecord, to_wire
from agent.holder.protocol import Family, SocketKind
from agent.ztunnel.lane_records import LaneRecords, describe
from agent.ztunnel.plan_inbound import still_allowed
from agent.ztunnel.sockets import SocketSource
from agent.ztunnel.state import WorkerState
from mesh.errors import UpstreamError
from mesh.model.connection import ConnectionRecord, ResponseFlag
from mesh.model.verdict import ConnectionFacts, Verdict
from mesh.model.workload import WorkloadUid
from mesh.tunnel.contract import Tunnel
from mesh.tunnel.lanes import FarRoute, Lane, LaneEnd, LaneEngine, LaneRecord, LaneTally, Stock

MAX_LANES = 4096
REFILL = 32
STOCK_IDLE_TURNS = 6
"""Calls of `tidy()` after which a stock that was not refilled meanwhile is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FarDecision:
    """A connection that was admitted, and answered by the application.

    Attributes:
        authority: of its CONNECT, as it was sent.
        record: of the connection; its source port stands for all.
    """

    tunnel: Tunnel
    uid: WorkloadUid
    authority: bytes
    facts: ConnectionFacts
    record: ConnectionRecord


@dataclass(slots=True, eq=False)
class FarLane:
    """`LaneEvents` of one lane."""

    owner: FarLanes
    decision: FarDecision
    wire: WireRecord
    lane: Lane | None = None

    def describe(self, record: LaneRecord) -> ConnectionRecord:
        return describe(self.decision.record, record, outbound=False)

    def lane_tally(self, tally: LaneTally) -> None:
        self.owner.records.tally(self.wire, tally)

    def lane_ended(self, record: LaneRecord) -> None:
        found = self.describe(record)
        if record.established:
            self.owner.records.told(found)
        elif record.end is LaneEnd.DENIED:
            self.owner.records.refused(found, ResponseFlag.DENY, record.detail)
        elif record.end is LaneEnd.FAILED:
            detail = f"{found.dst_addr}: {record.detail}"
            self.owner.records.refused(found, ResponseFlag.CONNECT, detail)
        else:
            self.owner.records.refused(found, ResponseFlag.UPSTREAM_RESET, record.detail)

    def lane_returned(self, sock: socket.socket, client_port: int) -> None:
        raise AssertionError("only near lanes give connections back")

    def lane_gone(self) -> None:
        self.owner.forget(self)


class PodStock:
    """Keeps one pod's stock of sockets filled (`StockEvents`)."""

    def __init__(
        self, engine: LaneEngine, sockets: SocketSource, uid: WorkloadUid, family: Family,
        tasks: asyncio.TaskGroup,
    ) -> None:  # fmt: skip
        self._sockets = sockets
        self._uid = uid
        self._family = family
        self._tasks = tasks
        self._idle_turns = 0
        self.stock: Stock = engine.stock(self)
        self.stock_wanted()

    def stock_wanted(self) -> None:
        self._idle_turns = 0
        self._tasks.create_task(self._refill())

    def tidy(self) -> None:
        """An idle pod costs no sockets."""
        self._idle_turns += 1
        if self._idle_turns == STOCK_IDLE_TURNS:
            self.stock.clear()

    async def _refill(self) -> None:
        try:
            found = await self._sockets.get_many(
                self._uid, self._family, SocketKind.INBOUND, REFILL
            )
        except UpstreamError:
            found = []  # The next connection asks Python, and gets to know why.
        self.stock.add(found)


class FarLanes:
    """Lanes of one worker's inbound streams. Without an engine for them it does nothing."""

    def __init__(
        self,
        engine: LaneEngine | None,
        sockets: SocketSource,
        records: LaneRecords,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._engine = engine
        self._sockets = sockets
        self.records = records
        self._tasks = tasks
        self._open: dict[tuple[Tunnel, bytes], FarLane] = {}
        self._all: set[FarLane] = set()
        """Those that are retired, but have connections, too."""
        self._stocks: dict[tuple[WorkloadUid, Family], PodStock] = {}

    def lay(self, decision: FarDecision) -> None:
        """Let the engine carry the next connections like this one. Nothing that the decision
        rests on may have changed since it was made."""
        key = (decision.tunnel, decision.authority)
        target, client = decision.facts.dst, decision.facts.src.ip
        if self._engine is None or key in self._open or client.version != target.ip.version:
            return
        if len(self._open) >= MAX_LANES:
            self._retire(list(self._open.values()))
        route = FarRoute(
            tunnel=decision.tunnel,
            authority=decision.authority,
            target=target,
            bind=client if client != target.ip else None,
            stock=self._stock(self._engine, decision.uid, Family(target.ip.version)),
            client=(f"[{client}]" if client.version == 6 else str(client)).encode(),
        )
        events = FarLane(self, decision, to_wire(decision.record))
        events.lane = self._engine.far(route, events)
        if events.lane is not None:
            self._open[key] = events
            self._all.add(events)

    def judge_again(self, state: WorkerState) -> int:
        """Admit nobody by what was decided before; cut what is denied now. Returns how many lanes
        were cut."""
        verdicts: dict[tuple[WorkloadUid, ConnectionFacts], Verdict] = {}
        cut = 0
        self._open.clear()
        for lane in self._all:
            key = (lane.decision.uid, lane.decision.facts)
            verdict = verdicts.get(key)
            if verdict is None:
                verdict = still_allowed(state.snapshot, state.policies, *key)
                verdicts[key] = verdict
            if lane.lane is None:
                continue
            if verdict.allowed:
                lane.lane.retire()
            else:
                lane.lane.cut(f"policy changed: {verdict}")
                cut += 1
        return cut

    def leave_tunnel(self, tunnel: Tunnel) -> None:
        """Admit nothing by a tunnel that has ended, or whose proof of identity has."""
        self._retire([lane for (owner, _), lane in self._open.items() if owner is tunnel])

    def pod_closed(self, uid: WorkloadUid) -> None:
        """A pod is gone, or has another namespace: its sockets are of no use."""
        self._retire([lane for lane in self._open.values() if lane.decision.uid == uid])
        for key in [key for key in self._stocks if key[0] == uid]:
            self._stocks.pop(key).stock.drop()

    def tidy(self) -> None:
        """Call it every few seconds."""
        for stock in self._stocks.values():
            stock.tidy()

    def forget(self, lane: FarLane) -> None:
        """Its last connection has ended."""
        self._all.discard(lane)

    def _retire(self, lanes: Iterable[FarLane]) -> None:
        for lane in lanes:
            self._open.pop((lane.decision.tunnel, lane.decision.authority), None)
            if lane.lane is not None:
                lane.lane.retire()

    def _stock(self, engine: LaneEngine, uid: WorkloadUid, family: Family) -> Stock:
        found = self._stocks.get((uid, family))
        if found is None:
            found = PodStock(engine, self._sockets, uid, family, self._tasks)
            self._stocks[uid, family] = found
        return found.stock
