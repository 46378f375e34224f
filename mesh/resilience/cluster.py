"""The endpoints of one service port under one policy: who is chosen, judged, limited.

Pure; clock and randomness are given. A try holds a `Lease` of its endpoint from the choice to its
end, and says through it how the endpoint did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Generic, TypeVar

from mesh.balance.chooser import Chooser, Loaded, Member, make_chooser
from mesh.balance.hashing import hash64
from mesh.model.traffic import CircuitLimits, LoadBalancing, OutlierDetection, RetryBudget
from mesh.resilience.circuit import CircuitBreaker, Resource
from mesh.resilience.outlier import Outcome, OutlierDetector
from mesh.resilience.retry_budget import RetryBudgetMeter
from mesh.resilience.sharing import CountOf, NamedCounts

Endpoint = TypeVar("Endpoint", bound=Loaded)

# A near tier takes all traffic down to 1/1.4 of its endpoints, then its share (Envoy's factor).
OVERPROVISIONING = 1.4
_DEFAULT_BALANCING = LoadBalancing()
_NO_LIMITS = CircuitLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRules:
    """What a policy asks for; equal rules share their state."""

    load_balancing: LoadBalancing = _DEFAULT_BALANCING
    outlier_detection: OutlierDetection | None = None
    limits: CircuitLimits = _NO_LIMITS
    retry_budget: RetryBudget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat(Generic[Endpoint]):
    """An endpoint as the source describes it.

    Attributes:
        distance: from the proxy; smaller is preferred.
    """

    endpoint: Endpoint
    name: str
    weight: int = 1
    distance: int = 0


class Refusal(StrEnum):
    """Why there is no endpoint for a try."""

    NO_ENDPOINT = "no_healthy_upstream"
    OVERFLOW = "overflow"


class Cluster(Generic[Endpoint]):
    """See the module."""

    def __init__(
        self,
        rules: ClusterRules,
        random: Random,
        now: float,
        count_of: CountOf | None = None,
        workers: int = 1,
    ) -> None:
        self.rules = rules
        self._random = random
        self._chooser: Chooser[Endpoint] = make_chooser(rules.load_balancing, random)
        judge = rules.outlier_detection
        self.detector: OutlierDetector[Endpoint] | None = (
            OutlierDetector(judge, random) if judge else None
        )
        self.breaker = CircuitBreaker(rules.limits, count_of, workers)
        self._most_active = rules.limits.max_endpoint_requests
        self._requests: NamedCounts | None = None
        if self._most_active is not None:
            part = -(-self._most_active // workers)
            if count_of is not None:
                self._requests = NamedCounts(
                    lambda name: count_of(f"endpoint requests {name}"), self._most_active, part
                )
            self._most_active = part
        budget = rules.retry_budget
        self.budget = RetryBudgetMeter(budget, now, count_of, workers) if budget else None
        self._members: dict[Endpoint, Member[Endpoint]] = {}
        self._all: tuple[Endpoint, ...] = ()
        self._tiers: list[frozenset[Endpoint]] = []
        self._by_hash: dict[int, Endpoint] | None = None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return self._all

    def name_of(self, endpoint: Endpoint) -> str:
        """The name of a member; empty for one that is gone."""
        member = self._members.get(endpoint)
        return member.name if member else ""

    def find(self, hashed: int) -> Endpoint | None:
        """The member whose name has a hash, as sessions keep it."""
        if self._by_hash is None:
            members = self._members.values()
            self._by_hash = {hash64(member.name): member.endpoint for member in members}
        return self._by_hash.get(hashed)

    def replace(self, seats: Sequence[Seat[Endpoint]], now: float) -> None:
        """Follow the endpoints of a new snapshot; those that stay keep what is known of them.

        Who has no weight gets nothing, as long as anybody has one.
        """
        seats = [seat for seat in seats if seat.weight] or seats
        first = not self._members
        members: dict[Endpoint, Member[Endpoint]] = {}
        for seat in seats:
            old = self._members.get(seat.endpoint)
            since = old.since if old else (None if first else now)
            members[seat.endpoint] = Member(
                endpoint=seat.endpoint, name=seat.name, weight=seat.weight, since=since
            )
        self._members = members
        self._by_hash = None
        self._all = tuple(members)
        by_distance: dict[int, set[Endpoint]] = {}
        for seat in seats:
            by_distance.setdefault(seat.distance, set()).add(seat.endpoint)
        self._tiers = [frozenset(by_distance[key]) for key in sorted(by_distance)]
        self._chooser.replace(list(members.values()))
        names = [member.name for member in members.values()]
        self.breaker.keep(names)
        if self._requests is not None:
            self._requests.keep(names)
        if self.detector is not None:
            self.detector.keep(self._all)

    def admitted(self, now: float) -> Sequence[Endpoint]:
        """Endpoints that may get a request now."""
        return self._all if self.detector is None else self.detector.admitted(self._all, now)

    def take(
        self, now: float, *, key: int | None = None, avoid: Endpoint | None = None,
        wanted: Endpoint | None = None,
    ) -> Lease[Endpoint] | Refusal:  # fmt: skip
        """Choose an endpoint for a try and count it; `wanted` is taken if it may serve."""
        among = self.admitted(now)
        if not among:
            return Refusal.NO_ENDPOINT
        if self._most_active is not None:
            among = [item for item in among if not self._is_full(item)]
            if not among:
                self.breaker.rejected[Resource.REQUESTS] += 1
                return Refusal.OVERFLOW
        if not self.breaker.acquire(Resource.REQUESTS):
            return Refusal.OVERFLOW
        while among:
            chosen = wanted
            if chosen is None or chosen not in among:
                chosen = self._choose(among, key, avoid, now)
            if self._requests is None:
                return Lease(self, chosen, now)
            name = self._members[chosen].name
            if self._requests.enter(name):
                return Lease(self, chosen, now, name)
            among = [item for item in among if item is not chosen]  # another process was faster
        self.breaker.release(Resource.REQUESTS)
        self.breaker.rejected[Resource.REQUESTS] += 1
        return Refusal.OVERFLOW

    def _is_full(self, endpoint: Endpoint) -> bool:
        if self._requests is not None:
            return self._requests.is_full(self._members[endpoint].name)
        return self._most_active is not None and endpoint.active >= self._most_active

    def _choose(
        self, among: Sequence[Endpoint], key: int | None, avoid: Endpoint | None, now: float
    ) -> Endpoint:
        if len(self._tiers) > 1:
            among = self._near(among)
        if avoid is not None and len(among) > 1:
            among = [item for item in among if item is not avoid] or among
        return self._chooser.choose(among, key, now)

    def _near(self, among: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """The nearest tier that is able to serve; a weakened one passes on part of its traffic."""
        fallback = among
        for tier in self._tiers:
            left = [item for item in among if item in tier]
            if not left:
                continue
            if fallback is among:
                fallback = left
            able = OVERPROVISIONING * len(left) / len(tier)
            if able >= 1 or self._random.random() < able:
                return left
        return fallback

    def start(self, endpoint: Endpoint, now: float) -> bool:
        """Of a lease: count; True where the request is a probe."""
        endpoint.active += 1
        self._chooser.started(endpoint, now)
        return self.detector is not None and self.detector.start(endpoint, now)

    def judge(
        self, endpoint: Endpoint, outcome: Outcome, rtt_s: float, now: float, *, probe: bool
    ) -> None:
        """Of a lease: a result."""
        self._chooser.ended(endpoint, rtt_s, now, failed=outcome is not Outcome.OK)
        if self.detector is not None:
            self.detector.report(endpoint, outcome, now, probe=probe)

    def end(
        self, endpoint: Endpoint, now: float, counted: str, *, judged: bool, probe: bool
    ) -> None:
        """Of a lease: it is over."""
        endpoint.active -= 1
        if counted and self._requests is not None:
            self._requests.leave(counted)
        self.breaker.release(Resource.REQUESTS)
        if judged:
            return
        self._chooser.ended(endpoint, None, now)
        if probe and self.detector is not None:
            self.detector.abandon(endpoint)


class Lease(Generic[Endpoint]):
    """One try's hold on its endpoint; `release` exactly ends it, more often does no harm."""

    __slots__ = ("_began", "_cluster", "_counted", "_judged", "_open", "_probe", "endpoint")

    def __init__(
        self, cluster: Cluster[Endpoint], endpoint: Endpoint, now: float, counted: str = ""
    ) -> None:
        self._cluster = cluster
        self._counted = counted
        self.endpoint = endpoint
        self._began = now
        self._judged = False
        self._open = True
        self._probe = cluster.start(endpoint, now)

    def judge(self, outcome: Outcome, now: float) -> None:
        """Say how the endpoint did; the first word counts."""
        if self._open and not self._judged:
            self._judged = True
            took = now - self._began
            self._cluster.judge(self.endpoint, outcome, took, now, probe=self._probe)

    def release(self, now: float) -> None:
        """The try is over."""
        if self._open:
            self._open = False
            self._cluster.end(
                self.endpoint, now, self._counted, judged=self._judged, probe=self._probe
            )
