"""How many retries there may be: a share of recent requests, plus a floor (GEP-3388).

Without a budget, retries multiply the load of a service that is failing because of load.
"""

from __future__ import annotations

from mesh.model.traffic import RetryBudget
from mesh.resilience.sharing import Count, CountOf, OwnCount

_SLOTS = 10


class RetryBudgetMeter:
    """Counts requests and retries over a sliding interval of ten slots.

    Each process takes what it counted away again when its slot has passed, so that whoever has
    nothing to do must be told the time (`pass_time`).

    Args:
        count_of: where all processes count together, by name; without, or where there is no room,
            a process has its part of the floor and a share of its own requests.
        workers: processes that share the budget.
    """

    __slots__ = ("_budget", "_floor", "_kinds", "_slot", "_slot_s", "refused")

    def __init__(
        self,
        budget: RetryBudget,
        now: float,
        count_of: CountOf | None = None,
        workers: int = 1,
    ) -> None:
        self._budget = budget
        self._slot_s = budget.interval_s / _SLOTS
        self._slot = int(now / self._slot_s)
        self._floor = budget.min_per_s * budget.interval_s
        requests = retries = None
        if count_of is not None:
            requests, retries = count_of("budget requests"), count_of("budget retries")
        if requests is None or retries is None:
            self._floor /= workers
            requests, retries = OwnCount(), OwnCount()
        self._kinds = (_Slots(requests), _Slots(retries))
        self.refused = 0
        """Retries that found the budget spent."""

    def count_request(self, now: float) -> None:
        """Count a request of a caller (not a retry)."""
        self.pass_time(now)
        requests, _ = self._kinds
        requests.total.force()
        requests.mine[self._slot % _SLOTS] += 1

    def allow_retry(self, now: float) -> bool:
        """Count a retry if the budget has room; otherwise answer 503 (GEP-3388)."""
        self.pass_time(now)
        requests, retries = self._kinds
        allowed = requests.total.total() * self._budget.percent / 100
        # The floor keeps a service with little traffic able to retry at all.
        if not retries.total.add(int(max(allowed, self._floor))):
            self.refused += 1
            return False
        retries.mine[self._slot % _SLOTS] += 1
        return True

    def pass_time(self, now: float) -> None:
        """Forget what is older than the interval."""
        slot = int(now / self._slot_s)
        for passed in range(self._slot + 1, min(slot, self._slot + _SLOTS) + 1):
            for kind in self._kinds:
                kind.forget(passed % _SLOTS)
        self._slot = max(slot, self._slot)


class _Slots:
    """What this process counted, slot by slot, of what all of them count."""

    __slots__ = ("mine", "total")

    def __init__(self, total: Count) -> None:
        self.total = total
        self.mine = [0] * _SLOTS

    def forget(self, slot: int) -> None:
        old, self.mine[slot] = self.mine[slot], 0
        if old:
            self.total.sub(old)
