"""Weighted round robin and slow start.

Smooth weighted round robin (as in nginx): over a full turn everybody gets exactly its weight,
and the turns of one endpoint are spread instead of following each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from mesh.model.traffic import SlowStart

Endpoint = TypeVar("Endpoint")


class WeightedRoundRobin(Generic[Endpoint]):
    """The turn-taking of one set of endpoints; weights may change at any time."""

    def __init__(self) -> None:
        self._credit: dict[Endpoint, float] = {}

    def choose(self, weights: Mapping[Endpoint, float]) -> Endpoint | None:
        """Choose the next; None where nobody has a weight. O(number of endpoints)."""
        credit = self._credit
        if credit.keys() != weights.keys():
            credit = self._credit = {item: credit.get(item, 0.0) for item in weights}
        total = 0.0
        chosen: Endpoint | None = None
        for endpoint, weight in weights.items():
            if weight <= 0:
                continue
            total += weight
            credit[endpoint] += weight
            if chosen is None or credit[endpoint] > credit[chosen]:
                chosen = endpoint
        if chosen is not None:
            credit[chosen] -= total
        return chosen


def slow_start_weight(weight: float, age_s: float, rules: SlowStart | None) -> float:
    """The weight of an endpoint that has been there for `age_s`."""
    if rules is None or age_s >= rules.window_s:
        return weight
    grown: float = (max(age_s, 0.0) / rules.window_s) ** (1 / rules.aggression)
    return weight * max(rules.min_weight_percent / 100, grown)
