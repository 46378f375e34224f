"""Limits on what is in flight towards a service; what exceeds them is refused at once (503)."""

from __future__ import annotations

from dataclasses import replace
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

    __slots__ = ("_active", "_most", "accepted", "limits", "rejected")

    def __init__(self, limits: CircuitLimits) -> None:
        self.limits = limits
        self._most = {
            Resource.CONNECTIONS: limits.max_connections,
            Resource.PENDING: limits.max_pending,
            Resource.REQUESTS: limits.max_requests,
            Resource.RETRIES: limits.max_retries,
        }
        self._active = dict.fromkeys(Resource, 0)
        self.accepted = dict.fromkeys(Resource, 0)
        self.rejected = dict.fromkeys(Resource, 0)
        """How often each limit refused; `accepted`: how often it did not."""

    def acquire(self, resource: Resource) -> bool:
        """Take one; False where the limit is reached."""
        most = self._most[resource]
        if most is not None and self._active[resource] >= most:
            self.rejected[resource] += 1
            return False
        self._active[resource] += 1
        self.accepted[resource] += 1
        return True

    def connect(self, endpoint_connections: int) -> bool:
        """Take a connection to an endpoint that has so many; False where a limit is reached.

        The first one of an endpoint is always allowed: the requests that chose it could wait
        for ever for a connection that others hold elsewhere.
        """
        most = self.limits.max_endpoint_connections
        if not endpoint_connections:
            self._active[Resource.CONNECTIONS] += 1
            return True
        if most is not None and endpoint_connections >= most:
            self.rejected[Resource.CONNECTIONS] += 1
            return False
        return self.acquire(Resource.CONNECTIONS)

    def release(self, resource: Resource) -> None:
        """Give one back."""
        if not self._active[resource]:
            raise ValueError(f"{resource}: more released than acquired")
        self._active[resource] -= 1

    def active(self, resource: Resource) -> int:
        """How many there are."""
        return self._active[resource]

    def most(self, resource: Resource) -> int | None:
        """How many there may be; None = no limit."""
        return self._most[resource]

    def remaining(self, resource: Resource) -> int | None:
        """How many more there may be; None = no limit."""
        most = self._most[resource]
        return None if most is None else max(0, most - self._active[resource])


def share_limits(limits: CircuitLimits, workers: int) -> CircuitLimits:
    """One worker's part of limits that are meant for all of them, rounded up."""

    def part(value: int | None) -> int | None:
        return None if value is None else -(-value // workers)

    return replace(
        limits,
        max_connections=part(limits.max_connections),
        max_pending=part(limits.max_pending),
        max_requests=part(limits.max_requests),
        max_retries=part(limits.max_retries),
        max_endpoint_connections=part(limits.max_endpoint_connections),
        max_endpoint_requests=part(limits.max_endpoint_requests),
    )
