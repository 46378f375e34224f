"""How many retries there may be: a share of recent requests, plus a floor (GEP-3388).

Without a budget, retries multiply the load of a service that is failing because of load.
"""

from __future__ import annotations

from mesh.model.traffic import RetryBudget

_SLOTS = 10


class RetryBudgetMeter:
    """Counts requests and retries over a sliding interval of ten slots."""

    __slots__ = ("_budget", "_requests", "_retries", "_slot", "_slot_s", "refused")

    def __init__(self, budget: RetryBudget, now: float) -> None:
        self._budget = budget
        self._slot_s = budget.interval_s / _SLOTS
        self._slot = int(now / self._slot_s)
        self._requests = [0] * _SLOTS
        self._retries = [0] * _SLOTS
        self.refused = 0
        """Retries that found the budget spent."""

    def count_request(self, now: float) -> None:
        """Count a request of a caller (not a retry)."""
        self._advance(now)
        self._requests[self._slot % _SLOTS] += 1

    def allow_retry(self, now: float) -> bool:
        """Count a retry if the budget has room; otherwise answer 503 (GEP-3388)."""
        self._advance(now)
        budget = self._budget
        allowed = sum(self._requests) * budget.percent / 100
        # The floor keeps a service with little traffic able to retry at all.
        allowed = max(allowed, budget.min_per_s * budget.interval_s)
        if sum(self._retries) + 1 > allowed:
            self.refused += 1
            return False
        self._retries[self._slot % _SLOTS] += 1
        return True

    def _advance(self, now: float) -> None:
        slot = int(now / self._slot_s)
        for passed in range(self._slot + 1, min(slot, self._slot + _SLOTS) + 1):
            self._requests[passed % _SLOTS] = 0
            self._retries[passed % _SLOTS] = 0
        self._slot = max(slot, self._slot)
