"""Outbound connections that the engine carries by itself: same pod, same destination, same tunnels.

A lane is laid after a connection was opened as Python decided. Where it chose among endpoints, each
of them gets a lane of its own, and the engine chooses as Python does. Lanes rest on the snapshot:
with the next one all of them are retired and laid anew by the next connections.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.feed.records import WireRecord, to_wire
from agent.ztunnel.lane_records import LaneRecords, describe
from mesh.hbone.pool import STREAMS_PER_TUNNEL
from mesh.model.address import SocketAddress
from mesh.model.connection import ConnectionRecord, ResponseFlag
from mesh.model.workload import WorkloadUid
from mesh.tunnel.contract import Headers, Tunnel
from mesh.tunnel.lanes import Lane, LaneEnd, LaneEngine, LaneRecord, LaneTally, NearRoute

MAX_LANES = 4096
MAX_ENDPOINTS = 256
"""Of a service; with more of them hardly any connection finds its lane laid."""
_LOOPBACK = IPv4Address("127.0.0.1")

LaneKey = tuple[WorkloadUid, SocketAddress, int]
Returned = Callable[[WorkloadUid, socket.socket, SocketAddress], None]
"""Takes a connection that no tunnel of its lane took, as if it had just been accepted."""


def redirected(port: int) -> SocketAddress:
    """Where a redirected connection comes from."""
    return SocketAddress(_LOOPBACK, port)


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDecision:
    """A connection of the pod `uid` to `dialled`, as it was opened.

    Attributes:
        endpoint: which of how many `endpoints` was chosen for it.
        record: of the connection; its source port stands for all.
        headers: the CONNECT, with `record.src_addr` in `forwarded`.
        used: called when connections have gone by the lane, with the change in how many are open.
    """

    uid: WorkloadUid
    dialled: SocketAddress
    endpoint: int
    endpoints: int
    record: ConnectionRecord
    headers: Headers
    used: Callable[[int], None]

    @property
    def key(self) -> LaneKey:
        return self.uid, self.dialled, self.endpoint


@dataclass(slots=True, eq=False)
class NearLane:
    """`LaneEvents` of one lane."""

    owner: NearLanes
    decision: NearDecision
    tunnels: Sequence[Tunnel]
    wire: WireRecord
    lane: Lane | None = None

    def describe(self, record: LaneRecord) -> ConnectionRecord:
        return describe(self.decision.record, record, outbound=True)

    def lane_tally(self, tally: LaneTally) -> None:
        self.decision.used(tally.opened - sum(tally.ended.values()))
        self.owner.records.tally(self.wire, tally)

    def lane_ended(self, record: LaneRecord) -> None:
        found = self.describe(record)
        if record.established:
            self.owner.records.told(found)
        elif record.end is LaneEnd.REFUSED and record.status:
            flag = ResponseFlag.DENY if record.status == 401 else ResponseFlag.CONNECT
            detail = f"{found.hbone_addr} answered {record.status}"
            self.owner.records.refused(found, flag, detail)
        else:
            self.owner.records.refused(found, ResponseFlag.CONNECT, record.detail)

    def lane_returned(self, sock: socket.socket, client_port: int) -> None:
        self.owner.returned(self.decision.uid, sock, redirected(client_port))

    def lane_gone(self) -> None:
        pass  # It was forgotten when it was retired.


class NearLanes:
    """Lanes of one worker's outbound connections. Without an engine for them it does nothing."""

    def __init__(self, engine: LaneEngine | None, records: LaneRecords, returned: Returned) -> None:
        self._engine = engine
        self.records = records
        self.returned = returned
        self._groups: dict[WorkloadUid, int] = {}
        self._lanes: dict[LaneKey, NearLane] = {}

    def group(self, uid: WorkloadUid) -> int:
        """The number of a pod's doors."""
        return self._groups.setdefault(uid, len(self._groups) + 1)

    def lay(self, decision: NearDecision, tunnels: Sequence[Tunnel]) -> None:
        """Let the engine carry the next connections like this one."""
        key = decision.key
        known = self._lanes.get(key)
        if self._engine is None or (known is not None and known.tunnels == tunnels):
            return
        if decision.endpoints > MAX_ENDPOINTS:
            return
        if known is not None:
            self._retire(key)
        if len(self._lanes) >= MAX_LANES:
            self.retire_all()
        route = self._route(decision, tunnels)
        if route is None:
            return
        record = decision.record
        events = NearLane(self, decision, tunnels, to_wire(record))
        events.lane = self._engine.near(route, events)
        if events.lane is not None:
            self._lanes[key] = events

    def retire_all(self) -> None:
        """What the lanes rest on has changed."""
        for key in list(self._lanes):
            self._retire(key)

    def _retire(self, key: LaneKey) -> None:
        lane = self._lanes.pop(key).lane
        if lane is not None:
            lane.retire()

    def _route(self, decision: NearDecision, tunnels: Sequence[Tunnel]) -> NearRoute | None:
        text = b"\0".join(part for field in decision.headers for part in field)
        client = str(decision.record.src_addr).encode()
        port = str(decision.record.src_addr.port).encode()
        before, found, after = text.partition(b'for="' + client + b'"')
        if not found:
            return None
        return NearRoute(
            group=self.group(decision.uid),
            dialled=decision.dialled,
            endpoint=decision.endpoint,
            endpoints=decision.endpoints,
            tunnels=tunnels,
            limit=STREAMS_PER_TUNNEL,
            head=before + b'for="' + client.removesuffix(port),
            tail=b'"' + after,
            fields=len(decision.headers),
        )
