"""The endpoint of one connection that is no HTTP, and what a TrafficPolicy makes of it.

Such a connection counts as one request and as one connection of its endpoint for as long as it
lasts; whether it could be opened is what its endpoint is judged by.
"""

from __future__ import annotations

from mesh.model.traffic import Upgrades
from mesh.resilience.cluster import Lease, Refusal
from mesh.resilience.outlier import Outcome
from waypoint.pending import Slot
from waypoint.protection import Protection
from waypoint.target import Target

_NO_LIMITS = Upgrades()


class OpaqueWay:
    """From the choice of the endpoint to the end of the connection.

    Attributes:
        limits: how long it may idle or last.
    """

    __slots__ = ("_lease", "_open", "_slot", "limits", "target")

    def __init__(
        self,
        target: Target,
        lease: Lease[Target] | None = None,
        slot: Slot | None = None,
        limits: Upgrades = _NO_LIMITS,
    ) -> None:
        self.target = target
        self._lease = lease
        self._slot = slot
        self.limits = limits
        self._open = True
        if lease is None:
            target.active += 1

    @classmethod
    def under(cls, protection: Protection, now: float) -> OpaqueWay | Refusal:
        """Choose an endpoint as a policy says."""
        cluster = protection.cluster
        lease = cluster.take(now)
        if isinstance(lease, Refusal):
            return lease
        target, name = lease.endpoint, str(lease.endpoint.key.address)
        if not cluster.breaker.connect(target.connections, name):
            lease.release(now)
            return Refusal.OVERFLOW
        target.connections += 1
        limits = protection.upgrades or _NO_LIMITS
        return cls(target, lease, Slot(cluster.breaker, name), limits)

    def opened(self, now: float) -> None:
        """The endpoint took the connection."""
        if self._lease is not None:
            self._lease.judge(Outcome.OK, now)

    def failed(self, now: float) -> None:
        """It did not."""
        if self._lease is not None:
            self._lease.judge(Outcome.LOCAL_FAILURE, now)
        self.close(now)

    def close(self, now: float) -> None:
        """The connection is over. Idempotent."""
        if not self._open:
            return
        self._open = False
        if self._lease is None:
            self.target.active -= 1
            return
        self._lease.release(now)
        if self._slot is not None and self._slot.release():
            self.target.connections -= 1
