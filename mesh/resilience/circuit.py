"""Limits on what is in flight towards a service; what exceeds them is refused at once (503)."""

from __future__ import annotations

from enum import StrEnum

from mesh.model.traffic import CircuitLimits


class Resource(StrEnum):
    """What is counted."""

    CONNECTIONS = "connections"
    PENDING = "pending"
    REQUESTS = "requests"
    RETRIES = "retries"


class CircuitBreaker:
    """Counts per resource. Whoever got `acquire` must `release`, once."""

    __slots__ = ("_active", "_most", "rejected")

    def __init__(self, limits: CircuitLimits) -> None:
        self._most = {
            Resource.CONNECTIONS: limits.max_connections,
            Resource.PENDING: limits.max_pending,
            Resource.REQUESTS: limits.max_requests,
            Resource.RETRIES: limits.max_retries,
        }
        self._active = dict.fromkeys(Resource, 0)
        self.rejected = dict.fromkeys(Resource, 0)
        """How often each limit refused."""

    def acquire(self, resource: Resource) -> bool:
        """Take one; False where the limit is reached."""
        most = self._most[resource]
        if most is not None and self._active[resource] >= most:
            self.rejected[resource] += 1
            return False
        self._active[resource] += 1
        return True

    def release(self, resource: Resource) -> None:
        """Give one back."""
        if not self._active[resource]:
            raise ValueError(f"{resource}: more released than acquired")
        self._active[resource] -= 1

    def active(self, resource: Resource) -> int:
        """How many there are."""
        return self._active[resource]

    def remaining(self, resource: Resource) -> int | None:
        """How many more there may be; None = no limit."""
        most = self._most[resource]
        return None if most is None else max(0, most - self._active[resource])
