"""Peak EWMA: the better of two random endpoints by latency times what is pending.

A latency above the average counts at once, one below only gradually, so that an endpoint that
turns slow is left quickly. Between results the estimate decays, so that it is tried again. A
failure counts as slow: an endpoint that fails fast must not attract traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from random import Random
from typing import Generic, TypeVar

Endpoint = TypeVar("Endpoint")

# Linkerd's load biaser: a 429 or 5xx counts as at least five seconds, a Retry-After up to 300.
FAILURE_S = 5.0
MAX_PENALTY_S = 300.0


class EndpointLoad:
    """The estimate for one endpoint."""

    __slots__ = ("_at", "_decay_s", "_rtt_s", "pending")

    def __init__(self, default_rtt_s: float, decay_s: float, now: float) -> None:
        self._decay_s = decay_s
        self._rtt_s = default_rtt_s
        self._at = now
        self.pending = 0
        """Requests under way."""

    def start(self) -> None:
        """A request goes out."""
        self.pending += 1

    def finish(
        self, rtt_s: float, now: float, *, failed: bool = False, retry_after_s: float = 0.0
    ) -> None:
        """Its response head came after `rtt_s` (time to the first byte)."""
        self.pending -= 1
        if failed:
            rtt_s = max(rtt_s, FAILURE_S, min(retry_after_s, MAX_PENALTY_S))
        if rtt_s >= self.rtt_s(now):
            self._rtt_s = rtt_s
        else:
            weight = exp(-max(0.0, now - self._at) / self._decay_s)
            self._rtt_s = self._rtt_s * weight + rtt_s * (1 - weight)
        self._at = now

    def cancel(self) -> None:
        """The request ended without a result."""
        self.pending -= 1

    def rtt_s(self, now: float) -> float:
        """The estimate at an instant; it decays while there is no news."""
        return self._rtt_s * exp(-max(0.0, now - self._at) / self._decay_s)

    def load(self, now: float) -> float:
        """Expected wait of one more request."""
        return self.rtt_s(now) * (self.pending + 1)


class PeakEwma(Generic[Endpoint]):
    """The choice between endpoints by their loads."""

    def __init__(self, default_rtt_s: float, decay_s: float) -> None:
        self._default_rtt_s = default_rtt_s
        self._decay_s = decay_s
        self._loads: dict[Endpoint, EndpointLoad] = {}

    def of(self, endpoint: Endpoint, now: float) -> EndpointLoad:
        """The estimate of an endpoint, made on first use."""
        load = self._loads.get(endpoint)
        if load is None:
            load = self._loads[endpoint] = EndpointLoad(self._default_rtt_s, self._decay_s, now)
        return load

    def keep(self, endpoints: Sequence[Endpoint]) -> None:
        """Forget endpoints that are no more."""
        wanted = set(endpoints)
        self._loads = {item: load for item, load in self._loads.items() if item in wanted}

    def choose(self, endpoints: Sequence[Endpoint], now: float, random: Random) -> Endpoint:
        """Choose one of at least one endpoint."""
        if len(endpoints) == 1:
            return endpoints[0]
        first, second = random.sample(endpoints, 2)
        better = self.of(second, now).load(now) < self.of(first, now).load(now)
        return second if better else first
