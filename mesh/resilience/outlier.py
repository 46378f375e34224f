"""Judging endpoints by their recent answers, and letting them back by one live request.

States: *healthy*; *ejected* until an instant; then *probing*: one request is let through. Its
success makes the endpoint healthy, its failure ejects it for twice as long. Nothing floods an
endpoint that has just come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from mesh.model.traffic import OutlierDetection

Endpoint = TypeVar("Endpoint", bound=Hashable)


@dataclass(slots=True)
class _Health:
    failures_in_row: int = 0
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

    def keep(self, endpoints: Iterable[Endpoint]) -> None:
        """Follow a new set of endpoints: new ones are healthy, others are forgotten."""
        self._health = {item: self._health.get(item) or _Health() for item in endpoints}

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

    def start(self, endpoint: Endpoint, now: float) -> None:
        """Note that a request goes to an endpoint: to an ejected one, it is the probe."""
        health = self._health.get(endpoint)
        if health is not None and health.ejected_until is not None:
            health.probing_since = now

    def report(self, endpoint: Endpoint, *, failed: bool, now: float) -> bool:
        """Record a result; True where it ejects the endpoint."""
        health = self._health.get(endpoint)
        if health is None:
            return False
        if health.ejected_until is not None:
            return self._after_ejection(health, failed=failed, now=now)
        health.failures_in_row = health.failures_in_row + 1 if failed else 0
        self._remember(health, failed=failed, now=now)
        if not failed or not self._is_outlier(health) or not self._may_eject():
            return False
        self._eject(health, now)
        return True

    def ejected(self, now: float) -> list[Endpoint]:
        """Endpoints that are out."""
        return [item for item in self._health if not self.is_admitted(item, now)]

    def _after_ejection(self, health: _Health, *, failed: bool, now: float) -> bool:
        if health.probing_since is None:
            return False  # A request from before the ejection: it says nothing new.
        if failed:
            self._eject(health, now)
            return True
        health.ejected_until = health.probing_since = None
        health.failures_in_row = health.failed_in_window = health.ejections = 0
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
        if 0 < rules.consecutive_failures <= health.failures_in_row:
            return True
        if rules.failure_percent is None or len(health.window) < rules.min_requests:
            return False
        return 100 * health.failed_in_window >= rules.failure_percent * len(health.window)

    def _may_eject(self) -> bool:
        """One may always go; then no more than the share; never the last one."""
        out = sum(item.ejected_until is not None for item in self._health.values())
        total = len(self._health)
        most = max(1, int(total * self._rules.max_ejected_percent / 100))
        return out < min(most, total - 1)

    def _eject(self, health: _Health, now: float) -> None:
        rules = self._rules
        # The exponent is capped: beyond it the maximum rules anyway.
        wait = min(rules.max_ejection_s, rules.base_ejection_s * 2 ** min(health.ejections, 32))
        health.ejections += 1
        health.ejected_until = now + wait * (1 + rules.jitter * self._random.random())
        health.probing_since = None
