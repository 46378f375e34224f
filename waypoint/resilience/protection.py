"""Live state of TrafficPolicies: what limits, judges and balances, by the place that asks for it.

Everything is made when a plan first needs it, shared by those that the same policy holds for, and
kept over snapshots that do not change it. Where no policy holds there is nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from random import Random
from typing import TypeVar, cast
from weakref import WeakValueDictionary

from mesh.model.address import SocketAddress
from mesh.model.routing import RouteKey, SessionPersistence
from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import (
    CircuitLimits,
    Hedging,
    LoadBalancing,
    RateLimit,
    RetryPolicy,
    Upgrades,
)
from mesh.model.workload import Service, ServiceKey, Workload, WorkloadUid
from mesh.resilience.bandwidth import Pacer
from mesh.resilience.cluster import Cluster, ClusterRules, Seat
from mesh.resilience.fault import FaultInjector
from mesh.resilience.rate_limit import RateLimiter
from mesh.resilience.sharing import Sharing
from mesh.routing.policies import Place, PolicyTable, Resolved, gateway_place, places_of
from mesh.routing.session import session_name
from waypoint.resilience.request_gate import Limiters, NamedLimiter, RequestGate
from waypoint.upstream.locality import distance, node_zone
from waypoint.upstream.target import Group, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Vantage:
    """Where this worker stands.

    Attributes:
        node: that runs it; empty = unknown, and nothing is near.
        workers: that share limits with it.
        sharing: where they count together; None: each keeps to its part.
    """

    node: str = ""
    workers: int = 1
    sharing: Sharing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sticky:
    """Session persistence of a place.

    Attributes:
        name: of the cookie or header.
    """

    rules: SessionPersistence
    name: str


class Paces:
    """The pacers of one place's bandwidth, both ways."""

    __slots__ = ("__weakref__", "request", "response")

    def __init__(self, request: Pacer | None, response: Pacer | None) -> None:
        self.request = request
        self.response = response


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Protection:
    """What holds for requests of one kind.

    Attributes:
        resolved: the policy it was made of.
        connection_limits: rates of connections that are no HTTP.
        retry: None = the route's own word, or the default.
    """

    resolved: Resolved
    cluster: Cluster[Target]
    gate: RequestGate | None
    connection_limits: Limiters | None
    paces: Paces | None
    hedging: Hedging | None
    retry: RetryPolicy | None
    sticky: Sticky | None

    @property
    def upgrades(self) -> Upgrades | None:
        """What holds for tunnels; None = the defaults."""
        return self.resolved.policy.upgrades


State = TypeVar("State")
_NO_ROUTE = RouteKey("")
_NO_WORKLOAD = WorkloadUid("")
MAX_WORKLOAD_WAYS = 256
"""Ports are the callers' choice: beyond so many, those where nothing is under way are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Which requests: those to a service port, those that a rule sends there, or those to a
    workload's own address.

    Attributes:
        places: where policies may hold for them, the narrowest first.
        service: that they go to; empty where `workload` is set.
        family: IP version of the endpoints.
        workload: that was dialled, at `address`.
        route, rule: the rule, where there is one.
        own_session: what it says of sessions itself; that comes before any policy.
    """

    places: tuple[Place, ...]
    service: ServiceKey
    port: int
    family: int
    route: RouteKey = _NO_ROUTE
    rule: int = 0
    own_session: SessionPersistence | None = None
    workload: WorkloadUid = _NO_WORKLOAD
    address: SocketAddress | None = None

    @classmethod
    def to_workload(cls, workload: Workload, address: SocketAddress) -> Way:
        """Requests to a workload's own address."""
        return cls(
            places=((workload.uid, ""), *gateway_place(workload.waypoint)),
            service=ServiceKey(""),
            port=address.port,
            family=address.ip.version,
            workload=workload.uid,
            address=address,
        )

    def holds_in(self, snapshot: MeshSnapshot) -> bool:
        """Whether there are such requests in a snapshot."""
        if self.workload:
            workload = snapshot.workloads.get(self.workload)
            # Which waypoint it has is one of the places.
            return workload is not None and self.places[1:] == gateway_place(workload.waypoint)
        service = snapshot.services.get(self.service)
        if service is None or all(port.port != self.port for port in service.ports):
            return False
        if not self.route:
            return True
        route = snapshot.routes.get(self.route)
        if route is None or self.rule >= len(route.rules):
            return False
        return route.rules[self.rule].session == self.own_session


class Protections:
    """The state of one worker. `follow` every snapshot, then ask."""

    def __init__(
        self, random: Random, now: Callable[[], float], vantage: Vantage | None = None
    ) -> None:
        self._random = random
        self._now = self.now = now
        self._vantage = vantage or Vantage()
        self._table = PolicyTable({}, {})
        self._zone = ""
        self.knows_sessions = False
        """Whether any rule or policy asks for sessions."""
        self._known: dict[Way, Protection | None] = {}
        self._parts: WeakValueDictionary[Hashable, object] = WeakValueDictionary()

    def follow(self, snapshot: MeshSnapshot) -> None:
        """Take the policies of a snapshot; what they do not change keeps its state."""
        self._table = PolicyTable.compile(snapshot)
        self._zone = node_zone(snapshot, self._vantage.node)
        rules = (rule for route in snapshot.routes.values() for rule in route.rules)
        self.knows_sessions = any(rule.session for rule in rules) or any(
            policy.session for policy in snapshot.traffic_policies.values()
        )
        for way, old in list(self._known.items()):
            if not way.holds_in(snapshot):
                del self._known[way]
            elif (old.resolved if old else None) != self._resolve(way):
                self._known[way] = self._make(way)

    def find(self, way: Way, group: Group) -> Protection | None:
        """What holds for a kind of requests that go to a group; None = nothing.

        Ask once per snapshot: the group's endpoints become those of the cluster.
        """
        if way not in self._known:
            if way.workload:
                self._make_room()
            self._known[way] = self._make(way)
        found = self._known[way]
        if found is not None:
            self._seat(found.cluster, group)
        return found

    def _make_room(self) -> None:
        ways = [way for way in self._known if way.workload]
        if len(ways) < MAX_WORKLOAD_WAYS:
            return
        for way in ways:
            found = self._known[way]
            if found is None or not found.cluster.breaker.held:
                del self._known[way]

    def tick(self) -> None:
        """Let time pass where no request does; call it about once a second."""
        now = self._now()
        for _, found in self.active():
            if found.cluster.budget is not None:
                found.cluster.budget.pass_time(now)

    @property
    def is_empty(self) -> bool:
        """Whether no policy holds anywhere."""
        return self._table.is_empty

    def active(self) -> list[tuple[Way, Protection]]:
        """All there are, for people."""
        return [(way, found) for way, found in self._known.items() if found is not None]

    def _resolve(self, way: Way) -> Resolved | None:
        resolved = self._table.resolve(way.places)
        if not resolved.policy.sources and way.own_session is None:
            return None
        return resolved

    def _make(self, way: Way) -> Protection | None:
        resolved = self._resolve(way)
        if resolved is None:
            return None
        policy = resolved.policy
        return Protection(
            resolved=resolved,
            cluster=self._cluster(way, resolved),
            gate=self._gate(resolved),
            connection_limits=self._limiters(
                resolved, "connection_rate_limits", policy.connection_rate_limits
            ),
            paces=self._paces(resolved),
            hedging=policy.hedging,
            retry=policy.retry,
            sticky=_sticky(way, way.own_session or policy.session),
        )

    def _cluster(self, way: Way, resolved: Resolved) -> Cluster[Target]:
        policy = resolved.policy
        rules = ClusterRules(
            load_balancing=policy.load_balancing or LoadBalancing(),
            outlier_detection=policy.outlier_detection,
            limits=policy.limits or CircuitLimits(),
            retry_budget=policy.retry_budget,
        )
        key = ("cluster", way.address or way.service, way.port, way.family, rules)
        sharing, workers = self._vantage.sharing, self._vantage.workers
        count_of = None if sharing is None else lambda name: sharing.count(f"{key} {name}")

        def make() -> Cluster[Target]:
            return Cluster[Target](rules, self._random, self._now(), count_of, workers)

        return self._shared(key, make)

    def _gate(self, resolved: Resolved) -> RequestGate | None:
        policy = resolved.policy
        if not policy.rate_limits and not policy.faults:
            return None
        limiters = self._limiters(resolved, "rate_limits", policy.rate_limits)
        faults = FaultInjector(policy.faults) if policy.faults else None
        return RequestGate(limiters or Limiters(()), faults, self._random)

    def _limiters(
        self, resolved: Resolved, part: str, limits: tuple[RateLimit, ...]
    ) -> Limiters | None:
        if not limits:
            return None
        source, place = dict(resolved.policy.sources)[part], resolved.place(part)
        made = tuple(
            NamedLimiter(
                name=f"{source}/{limit.name or number}",
                limiter=RateLimiter(
                    limit,
                    workers=self._vantage.workers,
                    sharing=self._vantage.sharing,
                    name=f"{part} {place} {source} {number} {limit}",
                ),
            )
            for number, limit in enumerate(limits)
        )
        return self._shared((part, place, source, limits), lambda: Limiters(made))

    def _paces(self, resolved: Resolved) -> Paces | None:
        wanted = resolved.policy.bandwidth
        if wanted is None:
            return None
        key = ("paces", resolved.place("bandwidth"), wanted)

        def make() -> Paces:
            return Paces(
                self._pacer(wanted.request_bytes_per_s, f"{key} request"),
                self._pacer(wanted.response_bytes_per_s, f"{key} response"),
            )

        return self._shared(key, make)

    def _pacer(self, bytes_per_s: int | None, name: str) -> Pacer | None:
        if not bytes_per_s:
            return None
        sharing = self._vantage.sharing
        if sharing is not None:
            return Pacer(bytes_per_s, self._now(), sharing.pacer(name, bytes_per_s))
        return Pacer(max(1, bytes_per_s // self._vantage.workers), self._now())

    def _shared(self, key: Hashable, make: Callable[[], State]) -> State:
        """The state of a key, as long as anybody holds it."""
        found = self._parts.get(key)
        if found is None:
            found = self._parts[key] = make()
        return cast("State", found)  # a key begins with the kind of its state

    def _seat(self, cluster: Cluster[Target], group: Group) -> None:
        seats = [
            Seat(
                endpoint=target,
                name=str(target.key.address),
                weight=target.weight,
                distance=self._distance(target, cluster.rules.load_balancing),
            )
            for target in group.targets
        ]
        cluster.replace(seats, self._now())

    def _distance(self, target: Target, rules: LoadBalancing) -> int:
        return distance(rules.locality, target, node=self._vantage.node, zone=self._zone)


def _sticky(way: Way, rules: SessionPersistence | None) -> Sticky | None:
    return Sticky(rules=rules, name=session_name(rules, way.route, way.rule)) if rules else None


def service_places(service: Service | None, port: int) -> tuple[Place, ...]:
    """Where policies for a service port may hold."""
    if service is None:
        return ()
    name = next((item.name for item in service.ports if item.port == port), "")
    return places_of(service.key, name)


def gateway_of(service: Service | None) -> tuple[Place, ...]:
    """Where policies for all that passes a service's waypoint hold."""
    return gateway_place(service.waypoint) if service is not None else ()
