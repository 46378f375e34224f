"""What the engine tells of lanes, as records and tallies for the node process.

Lanes count for the metrics; single connections are told of for the access log, as far as their
number allows. What was refused is an ordinary record.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from agent.feed.messages import Tallies, Told, ToNode
from agent.feed.records import Tally, WireRecord, to_wire
from agent.ztunnel.recorder import FLAG_OF_END
from mesh.model.address import SocketAddress
from mesh.model.connection import ConnectionRecord, ResponseFlag
from mesh.tunnel.contract import EndReason
from mesh.tunnel.lanes import LaneEnd, LaneRecord, LaneTally


def flag_of(end: LaneEnd) -> ResponseFlag:
    """Why an established connection ended."""
    if end is LaneEnd.CUT:
        return ResponseFlag.POLICY_CHANGE
    return FLAG_OF_END[EndReason(end)]


def describe(template: ConnectionRecord, record: LaneRecord, *, outbound: bool) -> ConnectionRecord:
    """One connection of a lane; `template`: what all of them have in common."""
    sent, received = record.bytes_out, record.bytes_in
    if not outbound:
        sent, received = received, sent
    flag = ResponseFlag.NONE
    if record.end is not None and record.established:
        flag = flag_of(record.end)
    return replace(
        template,
        src_addr=SocketAddress(template.src_addr.ip, record.client_port),
        opened_at=time.time() - (time.monotonic() - record.began_at),
        duration_s=record.lasted_s,
        bytes_sent=sent,
        bytes_received=received,
        flag=flag,
        detail=record.detail,
    )


class LaneRecords:
    """Collects what was told in one turn of the loop, and sends it at its end.

    `send` takes a message and how many connections it speaks of; `refused` a connection that came
    to nothing.
    """

    def __init__(
        self,
        refused: Callable[[ConnectionRecord], None],
        send: Callable[[ToNode, int], None],
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._refused = refused
        self._send = send
        self._call_soon = call_soon
        self._tallies: list[Tally] = []
        self._told: list[WireRecord] = []
        self._is_scheduled = False

    def tally(self, template: WireRecord, tally: LaneTally) -> None:
        """Count what a lane's established connections added."""
        ended: dict[ResponseFlag, int] = {}
        for end, count in tally.ended.items():
            ended[flag_of(end)] = ended.get(flag_of(end), 0) + count
        self._tallies.append(
            Tally(
                record=template,
                opened=tally.opened,
                ended=ended,
                sent=tally.sent,
                received=tally.received,
                untold=tally.untold,
            )
        )
        self._schedule()

    def told(self, record: ConnectionRecord) -> None:
        """Log one connection, which a tally has counted."""
        self._told.append(to_wire(record))
        self._schedule()

    def refused(self, record: ConnectionRecord, flag: ResponseFlag, detail: str) -> None:
        """Record a connection that was never established."""
        self._refused(replace(record, flag=flag, detail=detail))

    def progress(self, record: ConnectionRecord, sent: int, received: int, *, ended: bool) -> None:
        """Count bytes of a connection that Python opened, before its end or at it."""
        self._tallies.append(
            Tally(
                record=to_wire(record),
                opened=0,
                ended={record.flag: 1} if ended else {},
                sent=sent,
                received=received,
                untold=0,
            )
        )
        if ended:
            self.told(record)
        self._schedule()

    def flush(self) -> None:
        """Send what was collected."""
        self._is_scheduled = False
        if self._tallies:
            tallies, self._tallies = self._tallies, []
            self._send(Tallies(tallies=tallies), sum(sum(t.ended.values()) for t in tallies))
        if self._told:
            told, self._told = self._told, []
            self._send(Told(records=told), 0)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self.flush)
