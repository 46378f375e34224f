"""The exchanges under way: judged again when policy changes, and tunnels ended in time.

A request is judged again as it came, by the policies of now: what is denied is ended, the rest goes
on untouched. A tunnel (WebSocket and its like, CONNECT) also ends when nothing passes for longer
than its TrafficPolicy allows, after its longest duration, and when the token that opened it has
expired; these clocks are read once per `tick`, so that a byte that passes costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mesh.http1.message import Headers, RequestHead
from mesh.model.request import RequestFlag
from mesh.model.traffic import Upgrades
from waypoint.contract import Origin
from waypoint.exchange.exchange import Exchange
from waypoint.routing.plan import Marks, Reply

_NO_LIMITS = Upgrades()


class Judge(Protocol):
    """What policy says now of requests that began before."""

    def judge_again(
        self,
        origin: Origin,
        head: RequestHead,
        granted: Headers | None,
        began_at: float | None = None,
    ) -> Reply | None:
        """What to refuse a request with that was allowed once, or None.

        `granted`: its headers after external authorizers had their say, if any were asked.
        `began_at`: when its token was good, in seconds since the epoch; None: only now counts.
        """

    def token_expiry(self, origin: Origin, head: RequestHead) -> float | None:
        """When the token of a request stops being believed, in seconds since the epoch."""


@dataclass(slots=True, kw_only=True)
class _Tunnel:
    limits: Upgrades
    began_at: float
    moved_at: float
    moved_bytes: int
    expires_at: float | None


class OpenExchanges:
    """Those of one worker.

    Args:
        now: monotonic seconds; epoch_s: wall clock.

    Attributes:
        judge: set where there is policy.
    """

    def __init__(self, now: Callable[[], float], epoch_s: Callable[[], float]) -> None:
        self._now = now
        self._epoch_s = epoch_s
        self._open: set[Exchange] = set()
        self._tunnels: dict[Exchange, _Tunnel] = {}
        self.judge: Judge | None = None

    def add(self, exchange: Exchange) -> None:
        self._open.add(exchange)

    def discard(self, exchange: Exchange) -> None:
        self._open.discard(exchange)
        if self._tunnels:
            self._tunnels.pop(exchange, None)

    @property
    def under_way(self) -> list[Exchange]:
        """All of them, in no order."""
        return list(self._open)

    @property
    def tunnels(self) -> int:
        """Exchanges that became tunnels."""
        return len(self._tunnels)

    def switched(self, exchange: Exchange) -> None:
        """An exchange became a tunnel."""
        tries, judge, now = exchange.tries, self.judge, self._now()
        protection = tries.plan.protection if tries is not None else None
        limits = protection.upgrades if protection is not None else None
        expires_at = None
        if judge is not None:
            expires_at = judge.token_expiry(exchange.origin, _as_it_came(exchange))
        self._tunnels[exchange] = _Tunnel(
            limits=limits or _NO_LIMITS,
            began_at=now,
            moved_at=now,
            moved_bytes=0,
            expires_at=expires_at,
        )

    def judge_again(self) -> int:
        """Policy has changed: end what it does not allow any more. Says how many were ended."""
        judge, ended = self.judge, 0
        if judge is None:
            return 0
        elapsed = self._epoch_s() - self._now()
        for exchange in list(self._open):
            if exchange.tries is None:
                continue  # it waits for its plan, or has its answer
            granted = exchange.tries.plan.granted
            began_at = exchange.started_at + elapsed
            refusal = judge.judge_again(exchange.origin, _as_it_came(exchange), granted, began_at)
            if refusal is not None and not exchange.is_over:
                ended += 1
                refuse(exchange, refusal)
        return ended

    def tick(self) -> None:
        """End tunnels whose time is over; call it about once a second."""
        for exchange, tunnel in list(self._tunnels.items()):
            now, moved = self._now(), exchange.bytes_received + exchange.bytes_sent
            if moved != tunnel.moved_bytes:
                tunnel.moved_bytes, tunnel.moved_at = moved, now
            idle, longest = tunnel.limits.idle_timeout_s, tunnel.limits.max_duration_s
            if tunnel.expires_at is not None and self._epoch_s() >= tunnel.expires_at:
                exchange.cut(RequestFlag.TOKEN_EXPIRED, "jwt_expired")
            elif longest is not None and now - tunnel.began_at >= longest:
                exchange.cut(RequestFlag.DURATION_TIMEOUT, "max_duration_timeout")
            elif idle is not None and now - tunnel.moved_at >= idle:
                exchange.cut(RequestFlag.STREAM_IDLE, "stream_idle_timeout")


def _as_it_came(exchange: Exchange) -> RequestHead:
    """The head as it was judged at first; routes may have edited it since."""
    asked = exchange.seen.asked
    if asked is None:
        return replace(exchange.head)
    target, host, headers = asked
    return replace(exchange.head, target=target, host=host, headers=headers)


def refuse(exchange: Exchange, refusal: Reply) -> None:
    """End a request that policy does not allow any more."""
    marks = refusal.marks or Marks()
    exchange.marks = marks
    details = f"policy_change: {refusal.details}"
    if exchange.responded_at is not None:
        exchange.cut(RequestFlag.POLICY_CHANGE, details)
    else:
        exchange.answer(
            refusal.status,
            refusal.text,
            RequestFlag.POLICY_CHANGE,
            details,
            refusal.headers,
        )
