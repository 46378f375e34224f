"""Judging endpoints by their recent answers, and letting them back by one live request.

States: *healthy*; *ejected* until an instant; then *probing*: one request is let through. Its
success makes the endpoint healthy, its failure ejects it for twice as long. Nothing floods an
endpoint that has just come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Generic, TypeVar

from mesh.model.traffic import OutlierDetection

Endpoint = TypeVar("Endpoint", bound=Hashable)


class Outcome(StrEnum):
    """How a try ended, as far as it says something of the endpoint."""

    OK = "ok"
    SERVER_ERROR = "server_error"
    """A status of 500 to 599 that is none of the next."""
    GATEWAY_ERROR = "gateway_error"
    """502, 503 or 504."""
    LOCAL_FAILURE = "local_failure"
    """No status at all: not connected, reset, or too late."""


def outcome_of(status: int) -> Outcome:
    """What an HTTP status says."""
    if status < 500:
        return Outcome.OK
    return Outcome.GATEWAY_ERROR if status in (502, 503, 504) else Outcome.SERVER_ERROR


class HealthState(StrEnum):
    """Where an endpoint stands."""

    HEALTHY = "healthy"
    EJECTED = "ejected"
    PROBING = "probing"
    """A request is out that decides."""
    TO_PROBE = "to_probe"
    """The next request is the probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """An endpoint, for people.

    Attributes:
        ejected_s: for how long it is still out.
    """

    state: HealthState = HealthState.HEALTHY
    failures_in_row: int = 0
    ejections: int = 0
    ejected_s: float = 0.0


@dataclass(slots=True)
class _Health:
    failures_in_row: int = 0
    gateway_in_row: int = 0
    local_in_row: int = 0
    window: deque[tuple[float, bool]] = field(default_factory=deque)
    failed_in_window: int = 0
    ejections: int = 0
    ejected_until: float | None = None
    probing_since: float | None = None


# A window never holds more results than this: a busy endpoint is judged by its latest.
_MOST_RESULTS = 1000


class OutlierDetector(Generic[Endpoint]):
    """The judge over the endpoints of one service."""

    def __init__(self, rules: OutlierDetection, random: Random) -> None:
        self._rules = rules
        self._random = random
        self._health: dict[Endpoint, _Health] = {}
        self._out = 0
        self.ejections = 0
        """How often one was ejected."""

    def keep(self, endpoints: Iterable[Endpoint]) -> None:
        """Follow a new set of endpoints: new ones are healthy, others are forgotten."""
        self._health = {item: self._health.get(item) or _Health() for item in endpoints}
        self._out = sum(item.ejected_until is not None for item in self._health.values())

    def admitted(self, endpoints: Sequence[Endpoint], now: float) -> Sequence[Endpoint]:
        """Those that may get a request now; all of them in a panic, and where nobody is left:
        others may have disappeared since the last one was ejected."""
        if not self._out:
            return endpoints
        left = [item for item in endpoints if self.is_admitted(item, now)]
        if not left or 100 * len(left) < self._rules.panic_percent * len(endpoints):
            return endpoints
        return left

    def is_admitted(self, endpoint: Endpoint, now: float) -> bool:
        """Say whether an endpoint may get a request now."""
        health = self._health.get(endpoint)
        if health is None or health.ejected_until is None:
            return True
        if now < health.ejected_until:
            return False
        # A probe that never reports must not keep the endpoint out for ever.
        since = health.probing_since
        return since is None or now - since >= self._rules.max_ejection_s

    def start(self, endpoint: Endpoint, now: float) -> bool:
        """Note that a request goes to an endpoint; True where it is the probe of an ejected one."""
        health = self._health.get(endpoint)
        if health is None or health.ejected_until is None or now < health.ejected_until:
            return False
        health.probing_since = now
        return True

    def abandon(self, endpoint: Endpoint) -> None:
        """Note that a probe ended without a result: the next request is another."""
        health = self._health.get(endpoint)
        if health is not None:
            health.probing_since = None

    def report(
        self, endpoint: Endpoint, outcome: Outcome, now: float, *, probe: bool = False
    ) -> bool:
        """Record a result; True where it ejects the endpoint. `probe` is what `start` said."""
        health = self._health.get(endpoint)
        if health is None:
            return False
        failed = outcome is not Outcome.OK
        if health.ejected_until is not None:
            # A request from before the ejection says nothing new.
            return probe and self._after_probe(health, failed=failed, now=now)
        _count_in_row(health, outcome)
        self._remember(health, failed=failed, now=now)
        if not failed or not self._is_outlier(health) or not self._may_eject():
            return False
        self._eject(health, now)
        return True

    def health(self, endpoint: Endpoint, now: float) -> Health:
        """Say how an endpoint stands."""
        known = self._health.get(endpoint)
        if known is None:
            return Health()
        state, left = HealthState.HEALTHY, 0.0
        if known.ejected_until is not None:
            left = max(0.0, known.ejected_until - now)
            waiting = HealthState.EJECTED if left else HealthState.TO_PROBE
            state = HealthState.PROBING if known.probing_since is not None else waiting
        return Health(
            state=state,
            failures_in_row=known.failures_in_row,
            ejections=known.ejections,
            ejected_s=left,
        )

    def ejected(self, now: float) -> list[Endpoint]:
        """Endpoints that are out."""
        return [item for item in self._health if not self.is_admitted(item, now)]

    def _after_probe(self, health: _Health, *, failed: bool, now: float) -> bool:
        if failed:
            self._eject(health, now)
            return True
        self._out -= 1
        health.ejected_until = health.probing_since = None
        health.failures_in_row = health.failed_in_window = health.ejections = 0
        health.gateway_in_row = health.local_in_row = 0
        health.window.clear()
        return False

    def _remember(self, health: _Health, *, failed: bool, now: float) -> None:
        window = health.window
        window.append((now, failed))
        health.failed_in_window += failed
        while window[0][0] <= now - self._rules.window_s or len(window) > _MOST_RESULTS:
            health.failed_in_window -= window.popleft()[1]

    def _is_outlier(self, health: _Health) -> bool:
        rules = self._rules
        if (
            0 < rules.consecutive_failures <= health.failures_in_row
            or 0 < rules.consecutive_gateway_failures <= health.gateway_in_row
            or 0 < rules.consecutive_local_failures <= health.local_in_row
        ):
            return True
        if rules.failure_percent is None or len(health.window) < rules.min_requests:
            return False
        return 100 * health.failed_in_window >= rules.failure_percent * len(health.window)

    def _may_eject(self) -> bool:
        """One may always go; then no more than the share; never the last one."""
        total = len(self._health)
        most = max(1, int(total * self._rules.max_ejected_percent / 100))
        return self._out < min(most, total - 1)

    def _eject(self, health: _Health, now: float) -> None:
        rules = self._rules
        # The exponent is capped: beyond it the maximum rules anyway.
        wait = min(rules.max_ejection_s, rules.base_ejection_s * 2 ** min(health.ejections, 32))
        if health.ejected_until is None:
            self._out += 1
        self.ejections += 1
        health.ejections += 1
        health.ejected_until = now + wait * (1 + rules.jitter * self._random.random())
        health.probing_since = None


def _count_in_row(health: _Health, outcome: Outcome) -> None:
    """Local failures count as gateway failures, and both as failures."""
    if outcome is Outcome.OK:
        health.failures_in_row = health.gateway_in_row = health.local_in_row = 0
        return
    local = outcome is Outcome.LOCAL_FAILURE
    health.failures_in_row += 1
    health.gateway_in_row = health.gateway_in_row + 1 if outcome is not Outcome.SERVER_ERROR else 0
    health.local_in_row = health.local_in_row + 1 if local else 0
