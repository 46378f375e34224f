"""Limits on what is in flight towards a service; what exceeds them is refused at once (503)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum

from mesh.model.traffic import CircuitLimits
from mesh.resilience.sharing import Count, CountOf, NamedCounts


class Resource(StrEnum):
    """What is counted."""

    CONNECTIONS = "connections"
    PENDING = "pending"
    REQUESTS = "requests"
    RETRIES = "retries"


class CircuitBreaker:
    """Counts per resource. Whoever got `acquire` must `release`, once.

    Args:
        count_of: where all processes count together, by name; what has no room there is limited to
            this process's part.
        workers: processes that share the limits.
    """

    __slots__ = (
        "_active", "_callers", "_endpoints", "_most", "_shared", "accepted", "limits", "rejected",
    )  # fmt: skip

    def __init__(
        self, limits: CircuitLimits, count_of: CountOf | None = None, workers: int = 1
    ) -> None:
        self.limits = limits
        whole, part = _by_resource(limits), _by_resource(share_limits(limits, workers))
        self._shared: dict[Resource, Count] = {}
        for resource, most in whole.items():
            count = count_of(str(resource)) if count_of and most is not None else None
            if count is not None:
                self._shared[resource] = count
        self._most = {item: (whole if item in self._shared else part)[item] for item in Resource}
        self._endpoints: NamedCounts | None = None
        most = limits.max_endpoint_connections
        if count_of is not None and most is not None:
            self._endpoints = NamedCounts(
                lambda name: count_of(f"endpoint connections {name}"), most, -(-most // workers)
            )
        self._callers = _callers(limits.max_caller_connections, count_of, workers)
        self._active = dict.fromkeys(Resource, 0)
        self.accepted = dict.fromkeys(Resource, 0)
        self.rejected = dict.fromkeys(Resource, 0)
        """How often each limit refused; `accepted`: how often it did not."""

    @property
    def is_shared(self) -> bool:
        """Whether connections may become free in another process."""
        return self._endpoints is not None or Resource.CONNECTIONS in self._shared

    def acquire(self, resource: Resource) -> bool:
        """Take one; False where the limit is reached."""
        most = self._most[resource]
        if most is not None:
            shared = self._shared.get(resource)
            free = self._active[resource] < most if shared is None else shared.add(most)
            if not free:
                self.rejected[resource] += 1
                return False
        self._active[resource] += 1
        self.accepted[resource] += 1
        return True

    def connect(self, endpoint_connections: int, endpoint: str = "", *, waits: bool = True) -> bool:
        """Take a connection to an endpoint that has so many of ours; False where a limit is
        reached. `disconnect` gives it back.

        The first one of an endpoint is always allowed to those who would wait otherwise: the
        requests that chose it could wait for ever for a connection that others hold elsewhere.
        """
        first = waits and not endpoint_connections
        if not self._enter(endpoint_connections, endpoint, force=first):
            self.rejected[Resource.CONNECTIONS] += 1
            return False
        if first:
            shared = self._shared.get(Resource.CONNECTIONS)
            if shared is not None:
                shared.force()
            self._active[Resource.CONNECTIONS] += 1
            return True
        if self.acquire(Resource.CONNECTIONS):
            return True
        if self._endpoints is not None:
            self._endpoints.leave(endpoint)
        return False

    def _enter(self, connections: int, endpoint: str, *, force: bool) -> bool:
        if self._endpoints is not None:
            return self._endpoints.enter(endpoint, force=force)
        most = self.limits.max_endpoint_connections
        return most is None or not connections or connections < most

    def disconnect(self, endpoint: str = "") -> None:
        """A connection has ended."""
        self.release(Resource.CONNECTIONS)
        if self._endpoints is not None:
            self._endpoints.leave(endpoint)

    def enter_caller(self, caller: str) -> bool:
        """Take a connection of a caller; False where it has as many as it may have."""
        if self._callers is None or self._callers.enter(caller):
            return True
        self.rejected[Resource.CONNECTIONS] += 1
        return False

    def leave_caller(self, caller: str) -> None:
        """A connection of a caller has ended."""
        if self._callers is not None:
            self._callers.leave_for_good(caller)

    def keep(self, endpoints: Iterable[str]) -> None:
        """Forget all other endpoints."""
        if self._endpoints is not None:
            self._endpoints.keep(endpoints)

    def release(self, resource: Resource) -> None:
        """Give one back."""
        if not self._active[resource]:
            raise ValueError(f"{resource}: more released than acquired")
        self._active[resource] -= 1
        shared = self._shared.get(resource)
        if shared is not None:
            shared.sub()

    def active(self, resource: Resource) -> int:
        """How many there are, in all processes where they count together."""
        shared = self._shared.get(resource)
        return self._active[resource] if shared is None else shared.total()

    @property
    def held(self) -> int:
        """Requests that this process has under way, whether they are limited or not."""
        return self._active[Resource.REQUESTS]

    def most(self, resource: Resource) -> int | None:
        """How many there may be; None = no limit."""
        return self._most[resource]

    def remaining(self, resource: Resource) -> int | None:
        """How many more there may be; None = no limit."""
        most = self._most[resource]
        return None if most is None else max(0, most - self.active(resource))


def _callers(most: int | None, count_of: CountOf | None, workers: int) -> NamedCounts | None:
    if most is None:
        return None

    def count(caller: str) -> Count | None:
        return None if count_of is None else count_of(f"caller connections {caller}")

    return NamedCounts(count, most, -(-most // workers))


def _by_resource(limits: CircuitLimits) -> dict[Resource, int | None]:
    return {
        Resource.CONNECTIONS: limits.max_connections,
        Resource.PENDING: limits.max_pending,
        Resource.REQUESTS: limits.max_requests,
        Resource.RETRIES: limits.max_retries,
    }


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
