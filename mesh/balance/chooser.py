"""The choice of an endpoint as a TrafficPolicy's `loadBalancing` describes it.

A chooser is told of its endpoints when they change, and asked once per try with those that may
be chosen now. What it learnt of an endpoint stays while the endpoint does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

from mesh.balance.maglev import MaglevTable
from mesh.balance.peak_ewma import PeakEwma
from mesh.balance.ring_hash import HashRing
from mesh.balance.weighted import WeightedRoundRobin, slow_start_weight
from mesh.model.traffic import Algorithm, LoadBalancing, SlowStart


class Loaded(Hashable, Protocol):
    """An endpoint that knows how busy it is."""

    active: int
    """Requests under way."""


Endpoint = TypeVar("Endpoint", bound=Loaded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member(Generic[Endpoint]):
    """An endpoint of the set.

    Attributes:
        name: the same in every process, for hashing.
        since: when it joined; None for those that were there first.
    """

    endpoint: Endpoint
    name: str
    weight: int = 1
    since: float | None = None


class Chooser(Protocol[Endpoint]):
    """One way to choose."""

    def replace(self, members: Sequence[Member[Endpoint]]) -> None:
        """Follow a new set of endpoints."""

    def choose(self, among: Sequence[Endpoint], key: int | None, now: float) -> Endpoint:
        """Choose one of at least one member; `key` is the hash of the request, if it has one."""

    def started(self, endpoint: Endpoint, now: float) -> None:
        """A request goes to an endpoint."""

    def ended(
        self, endpoint: Endpoint, rtt_s: float | None, now: float, *, failed: bool = False
    ) -> None:
        """Its response began after `rtt_s`, or it ended without one (None)."""


def make_chooser(rules: LoadBalancing, random: Random) -> Chooser[Endpoint]:
    """The chooser of an algorithm."""
    match rules.algorithm:
        case Algorithm.LEAST_REQUEST:
            return LeastRequest(rules.choices, rules.slow_start, random)
        case Algorithm.ROUND_ROBIN:
            return RoundRobin(rules.slow_start, random)
        case Algorithm.RANDOM:
            return AtRandom(random)
        case Algorithm.PEAK_EWMA:
            return LeastLatency(rules.default_rtt_s, rules.decay_s, random)
        case Algorithm.RING_HASH | Algorithm.MAGLEV:
            return ByHash(rules, random)


class _Plain(Generic[Endpoint]):
    """What choosers have that learn nothing from results."""

    def started(self, endpoint: Endpoint, now: float) -> None: ...
    def ended(
        self, endpoint: Endpoint, rtt_s: float | None, now: float, *, failed: bool = False
    ) -> None: ...


class _Weights(Generic[Endpoint]):
    """Weights of the members, as far as they differ now."""

    def __init__(self, rules: SlowStart | None) -> None:
        self._rules = rules
        self._members: Mapping[Endpoint, Member[Endpoint]] = {}
        self._all_alike = True
        self._warm_at = float("-inf")

    def replace(self, members: Sequence[Member[Endpoint]]) -> None:
        self._members = {member.endpoint: member for member in members}
        self._all_alike = len({member.weight for member in members}) < 2
        joined = [member.since for member in members if member.since is not None]
        if self._rules is not None and joined:
            self._warm_at = max(joined) + self._rules.window_s

    def differ(self, now: float) -> bool:
        """Whether weights say anything; alike, the cheap choice will do."""
        return not self._all_alike or now < self._warm_at

    def of(self, endpoint: Endpoint, now: float) -> float:
        """The weight of one, slow start included."""
        member = self._members.get(endpoint)
        if member is None:
            return 1.0
        if member.since is None:
            return float(member.weight)
        return slow_start_weight(float(member.weight), now - member.since, self._rules)


class LeastRequest(_Plain[Endpoint]):
    """The least busy of some at random; with unequal weights, turns by weight per request."""

    def __init__(self, choices: int, slow_start: SlowStart | None, random: Random) -> None:
        self._choices = choices
        self._random = random
        self._weights: _Weights[Endpoint] = _Weights(slow_start)
        self._turns: WeightedRoundRobin[Endpoint] = WeightedRoundRobin()

    def replace(self, members: Sequence[Member[Endpoint]]) -> None:
        self._weights.replace(members)

    def choose(self, among: Sequence[Endpoint], key: int | None, now: float) -> Endpoint:
        if len(among) == 1:
            return among[0]
        if self._weights.differ(now):
            weights = {item: self._weights.of(item, now) / (item.active + 1) for item in among}
            return self._turns.choose(weights) or self._random.choice(among)
        if self._choices == 2:
            return self._of_two(among)
        # `sample` is in random order, and `min` takes the first of equals.
        drawn = self._random.sample(among, min(self._choices, len(among)))
        return min(drawn, key=_active)

    def _of_two(self, among: Sequence[Endpoint]) -> Endpoint:
        """As below, without the cost of a general sample."""
        random, count = self._random.random, len(among)
        first = int(random() * count)
        second = int(random() * (count - 1))
        second += second >= first
        one, other = among[first], among[second]
        return other if other.active < one.active else one


def _active(endpoint: Loaded) -> int:
    return endpoint.active


class RoundRobin(_Plain[Endpoint]):
    """Everyone in turn, by weight where weights differ. Starts anywhere, so that the turns of
    several workers do not coincide."""

    def __init__(self, slow_start: SlowStart | None, random: Random) -> None:
        self._random = random
        self._next = random.randrange(1 << 16)
        self._weights: _Weights[Endpoint] = _Weights(slow_start)
        self._turns: WeightedRoundRobin[Endpoint] = WeightedRoundRobin()

    def replace(self, members: Sequence[Member[Endpoint]]) -> None:
        self._weights.replace(members)

    def choose(self, among: Sequence[Endpoint], key: int | None, now: float) -> Endpoint:
        if self._weights.differ(now):
            weights = {item: self._weights.of(item, now) for item in among}
            return self._turns.choose(weights) or self._random.choice(among)
        self._next += 1
        return among[self._next % len(among)]


class AtRandom(_Plain[Endpoint]):
    """Anyone, by weight."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._weights: _Weights[Endpoint] = _Weights(None)

    def replace(self, members: Sequence[Member[Endpoint]]) -> None:
        self._weights.replace(members)

    def choose(self, among: Sequence[Endpoint], key: int | None, now: float) -> Endpoint:
        if self._weights.differ(now):
            weights = [self._weights.of(item, now) for item in among]
            if any(weights):
                return self._random.choices(among, weights)[0]
        return among[int(self._random.random() * len(among))]


class LeastLatency(Generic[Endpoint]):
    """Peak EWMA: see `mesh.balance.peak_ewma`."""

    def __init__(self, default_rtt_s: float, decay_s: float, random: Random) -> None:
        self._random = random
        self._loads: PeakEwma[Endpoint] = PeakEwma(default_rtt_s, decay_s)

    def replace(self, members: Sequence[Member[Endpoint]]) -> None:
        self._loads.keep([member.endpoint for member in members])

    def choose(self, among: Sequence[Endpoint], key: int | None, now: float) -> Endpoint:
        return self._loads.choose(among, now, self._random)

    def started(self, endpoint: Endpoint, now: float) -> None:
        self._loads.of(endpoint, now).start()

    def ended(
        self, endpoint: Endpoint, rtt_s: float | None, now: float, *, failed: bool = False
    ) -> None:
        load = self._loads.of(endpoint, now)
        if not load.pending:
            return  # the endpoint went and came again meanwhile; it is not the one that began
        if rtt_s is None:
            load.cancel()
        else:
            load.finish(rtt_s, now, failed=failed)


class ByHash(_Plain[Endpoint]):
    """Ring or Maglev table. A request without a key goes anywhere; one whose endpoint cannot be
    chosen goes to the next, the same one every time."""

    def __init__(self, rules: LoadBalancing, random: Random) -> None:
        self._rules = rules
        self._random = random
        self._members: Sequence[Member[Endpoint]] = ()
        self._table: HashRing[Endpoint] | MaglevTable[Endpoint] | None = None

    def replace(self, members: Sequence[Member[Endpoint]]) -> None:
        old = {(member.name, member.weight): member.endpoint for member in self._members}
        new = {(member.name, member.weight): member.endpoint for member in members}
        if old != new:
            self._table = None  # built when it is asked for: a large one takes a while
        self._members = members

    def choose(self, among: Sequence[Endpoint], key: int | None, now: float) -> Endpoint:
        if key is None or len(among) == 1:
            return among[int(self._random.random() * len(among))]
        walk = self._walk(key)
        if len(among) < len(self._members):
            usable = set(among)
            walk = (item for item in walk if item in usable)
        return next(walk, among[key % len(among)])

    def _walk(self, key: int) -> Iterator[Endpoint]:
        if self._table is None:
            self._table = self._build()
        return self._table.walk(key)

    def _build(self) -> HashRing[Endpoint] | MaglevTable[Endpoint]:
        rules = self._rules
        weights = {member.name: (member.endpoint, member.weight) for member in self._members}
        if rules.algorithm is Algorithm.MAGLEV:
            return MaglevTable(weights, size=rules.table_size)
        return HashRing(weights, min_size=rules.min_ring_size, max_size=rules.max_ring_size)
