"""Connections that are no HTTP: their records, and their end when policy changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mesh.model.connection import ConnectionRecord, Party, Path, Reporter, ResponseFlag
from mesh.model.verdict import Verdict
from mesh.policy.judge import NO_POLICY
from mesh.tunnel.contract import End, EndReason, Relay
from waypoint.contract import Origin
from waypoint.resilience.opaque_way import OpaqueRefusal, OpaqueWay
from waypoint.upstream.target import Target

_FLAGS = {
    EndReason.DONE: ResponseFlag.NONE,
    EndReason.APPLICATION_RESET: ResponseFlag.DOWNSTREAM_CLOSED,
    EndReason.PEER_RESET: ResponseFlag.UPSTREAM_RESET,
    EndReason.TUNNEL_LOST: ResponseFlag.UPSTREAM_RESET,
    EndReason.ABORTED: ResponseFlag.DRAIN,
}


class ConnectionSink(Protocol):
    """Takes what becomes of connections (`waypoint.telemetry.records`)."""

    def opened(self, origin: Origin, dst: Party) -> None: ...
    def ended(self, record: ConnectionRecord) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Monotonic seconds, and seconds since the epoch."""

    now: Callable[[], float]
    epoch_s: Callable[[], float]


class Relayed:
    """`RelayEvents` of one connection."""

    def __init__(self, owner: OpaqueConnections, origin: Origin, way: OpaqueWay) -> None:
        self._owner = owner
        self.origin = origin
        self.way = way
        self.target = way.target
        self.relay: Relay | None = None
        self.cut_by: Verdict | None = None
        self.overdue: ResponseFlag | None = None
        self.began_at = self._moved_at = owner.clocks.now()
        self._moved_bytes = 0
        way.opened(self.began_at)

    def relay_closed(self, end: End) -> None:
        self.way.close(self._owner.clocks.now())
        self._owner.closed(self, end)

    def tick(self, now: float) -> None:
        """End it if its time is over."""
        relay, limits = self.relay, self.way.limits
        if relay is None or self.overdue is not None:
            return
        moved = relay.bytes_out + relay.bytes_in
        if moved != self._moved_bytes:
            self._moved_bytes, self._moved_at = moved, now
        idle, longest = limits.idle_timeout_s, limits.max_duration_s
        if longest is not None and now - self.began_at >= longest:
            self.overdue = ResponseFlag.DURATION_TIMEOUT
            relay.abort("max_duration_timeout")
        elif idle is not None and now - self._moved_at >= idle:
            self.overdue = ResponseFlag.STREAM_IDLE
            relay.abort("stream_idle_timeout")


class OpaqueConnections:
    """The relayed connections of one worker.

    Args:
        verdict: what policy says of a connection now.
    """

    def __init__(
        self, sink: ConnectionSink, verdict: Callable[[Origin], Verdict], clocks: Clocks
    ) -> None:
        self._sink = sink
        self._verdict = verdict
        self.clocks = clocks
        self._open: set[Relayed] = set()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, origin: Origin, way: OpaqueWay) -> Relayed:
        """A connection is about to be relayed."""
        relayed = Relayed(self, origin, way)
        self._open.add(relayed)
        self._sink.opened(origin, way.target.dst)
        return relayed

    def tick(self) -> None:
        """End connections whose time is over; call it about once a second."""
        now = self.clocks.now()
        for relayed in list(self._open):
            relayed.tick(now)

    def refused(
        self,
        origin: Origin,
        target: Target | None,
        detail: str,
        refusal: OpaqueRefusal | None = None,
    ) -> None:
        """A connection was closed without having been relayed."""
        verdict = self._verdict(origin)
        flag = ResponseFlag.CONNECT if target is not None else ResponseFlag.NO_HEALTHY_UPSTREAM
        if refusal is not None:
            flag, detail = refusal.flag, refusal.detail
        self._sink.opened(origin, target.dst if target is not None else Party())
        self._sink.ended(
            _record(
                origin,
                target,
                flag if verdict.allowed else ResponseFlag.DENY,
                verdict,
                opened_at=self.clocks.epoch_s(),
                detail=detail if verdict.allowed else str(verdict),
            )
        )

    def judge_again(self) -> None:
        """Policy may have changed: end what it does not allow any more."""
        for relayed in list(self._open):
            verdict = self._verdict(relayed.origin)
            if not verdict.allowed and relayed.relay is not None:
                relayed.cut_by = verdict
                relayed.relay.abort("policy change")

    def closed(self, relayed: Relayed, end: End) -> None:
        """A connection ended."""
        self._open.discard(relayed)
        cut_by = relayed.cut_by
        duration = self.clocks.now() - relayed.began_at
        self._sink.ended(
            _record(
                relayed.origin,
                relayed.target,
                ResponseFlag.POLICY_CHANGE
                if cut_by is not None
                else relayed.overdue or _FLAGS[end.reason],
                cut_by if cut_by is not None else self._verdict(relayed.origin),
                opened_at=self.clocks.epoch_s() - duration,
                duration_s=duration,
                end=end,
                detail=str(cut_by) if cut_by is not None else end.detail,
            )
        )


def _record(
    origin: Origin,
    target: Target | None,
    flag: ResponseFlag,
    verdict: Verdict,
    *,
    opened_at: float,
    duration_s: float = 0.0,
    end: End | None = None,
    detail: str = "",
) -> ConnectionRecord:
    refused = flag in (ResponseFlag.DENY, ResponseFlag.POLICY_CHANGE)
    return ConnectionRecord(
        reporter=Reporter.WAYPOINT,
        path=Path.HBONE,
        flag=flag,
        src=origin.src,
        dst=target.dst if target is not None else Party(),
        src_addr=origin.client,
        dst_addr=target.key.address if target is not None else origin.dialled,
        opened_at=opened_at,
        duration_s=duration_s,
        bytes_sent=end.bytes_out if end is not None else 0,
        bytes_received=end.bytes_in if end is not None else 0,
        service=origin.service.key if origin.service else "",
        hbone_addr=target.key.tunnel if target is not None else None,
        mutual_tls=origin.principal is not None,
        policy=str(verdict.decided_by) if refused and verdict.decided_by else "",
        detail=detail,
        dry_run=tuple(str(ref) for ref in verdict.dry_run),
        audited=tuple(str(ref) for ref in verdict.audited),
    )


class _Nobody:
    """`ConnectionSink` that drops everything."""

    def opened(self, origin: Origin, dst: Party) -> None: ...
    def ended(self, record: ConnectionRecord) -> None: ...


def unrecorded() -> OpaqueConnections:
    """Connections that nobody judges or records: a front without a worker."""
    clocks = Clocks(now=time.monotonic, epoch_s=time.time)
    return OpaqueConnections(_Nobody(), lambda _: NO_POLICY, clocks)
