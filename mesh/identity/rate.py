"""A token bucket per node: no node can keep the CA from the others."""

from __future__ import annotations


class NodeRates:
    """Allows `burst` requests at once and `per_s` a second after that, for each node."""

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, node: str, now: float) -> float:
        """Take one request at monotonic `now`: 0 if allowed, else seconds until one will be."""
        level, at = self._levels.get(node, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - at) * self._per_s)
        allowed = level >= 1.0
        self._levels[node] = (level - 1.0 if allowed else level, now)
        return 0.0 if allowed else (1.0 - level) / self._per_s
