"""The endpoint of one connection that is no HTTP, and what a TrafficPolicy makes of it.

Such a connection counts as one request and as one connection of its endpoint for as long as it
lasts; whether it could be opened is what its endpoint is judged by. It never waits: where a limit
is reached, it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.model.connection import ResponseFlag
from mesh.model.identity import SpiffeId
from mesh.model.traffic import Upgrades
from mesh.resilience.circuit import CircuitBreaker
from mesh.resilience.cluster import Lease, Refusal
from mesh.resilience.outlier import Outcome
from waypoint.resilience.protection import Protection
from waypoint.upstream.pending import Slot
from waypoint.upstream.target import Target

_NO_LIMITS = Upgrades()
_FLAGS = {
    Refusal.NO_ENDPOINT: ResponseFlag.NO_HEALTHY_UPSTREAM,
    Refusal.OVERFLOW: ResponseFlag.UPSTREAM_OVERFLOW,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueRefusal:
    """Why a policy's limits let a connection have no endpoint."""

    flag: ResponseFlag
    detail: str


_OVERFLOW = OpaqueRefusal(flag=ResponseFlag.UPSTREAM_OVERFLOW, detail="overflow")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What a policy counts of one connection."""

    lease: Lease[Target]
    slot: Slot
    breaker: CircuitBreaker
    caller: str


class OpaqueWay:
    """From the choice of the endpoint to the end of the connection.

    Attributes:
        limits: how long it may idle or last.
    """

    __slots__ = ("_held", "_open", "limits", "target")

    def __init__(
        self, target: Target, held: _Held | None = None, limits: Upgrades = _NO_LIMITS
    ) -> None:
        self.target = target
        self._held = held
        self.limits = limits
        self._open = True
        if held is None:
            target.active += 1

    @classmethod
    def under(
        cls, protection: Protection, principal: SpiffeId | None, now: float
    ) -> OpaqueWay | OpaqueRefusal:
        """Choose an endpoint as a policy says, if it lets the caller connect now."""
        limits = protection.connection_limits
        refused = limits.take(principal, {}, now) if limits is not None else None
        if refused is not None:
            detail = f"rate_limited[{refused[0].name}]"
            return OpaqueRefusal(flag=ResponseFlag.RATE_LIMITED, detail=detail)
        breaker, caller = protection.cluster.breaker, str(principal or "")
        if not breaker.enter_caller(caller):
            return OpaqueRefusal(flag=ResponseFlag.UPSTREAM_OVERFLOW, detail="caller_overflow")
        found = cls._choose(protection, caller, now)
        if isinstance(found, OpaqueRefusal):
            breaker.leave_caller(caller)
        return found

    @classmethod
    def _choose(cls, protection: Protection, caller: str, now: float) -> OpaqueWay | OpaqueRefusal:
        cluster = protection.cluster
        lease = cluster.take(now)
        if isinstance(lease, Refusal):
            return OpaqueRefusal(flag=_FLAGS[lease], detail=str(lease))
        target, name = lease.endpoint, str(lease.endpoint.key.address)
        if not cluster.breaker.connect(target.connections, name, waits=False):
            lease.release(now)
            return _OVERFLOW
        target.connections += 1
        slot = Slot(cluster.breaker, name)
        held = _Held(lease=lease, slot=slot, breaker=cluster.breaker, caller=caller)
        return cls(target, held, protection.upgrades or _NO_LIMITS)

    def opened(self, now: float) -> None:
        """The endpoint took the connection."""
        if self._held is not None:
            self._held.lease.judge(Outcome.OK, now)

    def failed(self, now: float) -> None:
        """It did not."""
        if self._held is not None:
            self._held.lease.judge(Outcome.LOCAL_FAILURE, now)
        self.close(now)

    def close(self, now: float) -> None:
        """The connection is over. Idempotent."""
        if not self._open:
            return
        self._open = False
        held = self._held
        if held is None:
            self.target.active -= 1
            return
        held.lease.release(now)
        held.breaker.leave_caller(held.caller)
        if held.slot.release():
            self.target.connections -= 1
