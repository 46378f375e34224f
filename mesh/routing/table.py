"""All routes of a snapshot, compiled once, asked once per request.

A service port without routes works as if there were no routing (`NoRoute.NOT_ATTACHED`); one
with routes answers what they do not match with 404 (`NoRoute.NO_MATCH`). Backends are final: a
backend's own routes are not followed (GEP-1324).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from mesh.model.routing import ReferenceGrant, Route, RouteKind, RouteRule
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import ServiceKey
from mesh.routing.attach import GroupKey, settle_groups
from mesh.routing.grpc_index import GrpcIndex, grpc_entries
from mesh.routing.http_index import HttpIndex, http_entries
from mesh.routing.index import Request, RouteMatch
from mesh.routing.message import RequestFacts
from mesh.routing.rule import BackendResolver, CompiledRule, Grants, compile_rule
from mesh.routing.sni_index import SniIndex


class NoRoute(StrEnum):
    """Why no rule takes a request."""

    NOT_ATTACHED = "not_attached"
    """No route is about this service port and caller: the service's own endpoints serve."""
    NO_MATCH = "no_match"
    """Routes are, and none matches: 404, or UNIMPLEMENTED for gRPC."""


Rules = list[CompiledRule]


class _Group:
    """The routes of one group, compiled."""

    __slots__ = ("by_name", "index", "kind", "l4", "made_of")

    def __init__(
        self, routes: Sequence[Route], members: Sequence[tuple[Route, CompiledRule]]
    ) -> None:
        self.made_of = members
        self.kind = routes[0].kind
        self.index: HttpIndex | GrpcIndex | None = None
        self.l4: RouteMatch | None = None
        self.by_name: SniIndex | None = None
        match self.kind:
            case RouteKind.HTTP:
                self.index = HttpIndex(
                    item for route, rule in members for item in http_entries(route, rule)
                )
            case RouteKind.GRPC:
                self.index = GrpcIndex(
                    item for route, rule in members for item in grpc_entries(route, rule)
                )
            case RouteKind.TLS:
                self.by_name = SniIndex(members)
            case RouteKind.TCP:
                # Nothing tells connections apart: the first rule of the oldest route takes all.
                if members:
                    self.l4 = RouteMatch(rule=members[0][1], match=0, prefix=None)


class _RuleCache:
    """The rules of routes, taken over while route and everything it may refer to stay."""

    def __init__(
        self, snapshot: MeshSnapshot, previous: _RuleCache | None, grants_required: bool
    ) -> None:
        ports = {key: service.ports for key, service in snapshot.services.items()}
        # All that a backend's resolution depends on; endpoints come and go without a trace here.
        self._world = (ports, snapshot.grants, grants_required)
        same = previous is not None and previous._world == self._world
        self._known = previous._rules if previous is not None and same else {}
        self._rules: dict[str, tuple[Route, Rules]] = {}
        self._resolver = make_resolver(snapshot, grants_required=grants_required)

    def of(self, route: Route) -> Rules:
        """The usable rules of a route."""
        known = self._rules.get(route.key) or self._known.get(route.key)
        if known is None or known[0] is not route:
            known = (route, usable_rules(route, self._resolver))
        self._rules[route.key] = known
        return known[1]


class RouteTable:
    """Finds the rule of a request. Immutable; build a new one for a new snapshot."""

    def __init__(
        self,
        groups: Mapping[GroupKey, _Group],
        shared: Mapping[tuple[str, ...], _Group],
        rules: _RuleCache,
    ) -> None:
        self._shared = shared
        self._rules = rules
        self._groups: dict[tuple[ServiceKey, int], dict[str, _Group]] = {}
        for key, group in groups.items():
            self._groups.setdefault((key.service, key.port), {})[key.consumer] = group

    @classmethod
    def compile(
        cls,
        snapshot: MeshSnapshot,
        previous: RouteTable | None = None,
        *,
        grants_required: bool = False,
    ) -> RouteTable:
        """Compile the routes of a snapshot, taking over from `previous` what did not change.

        `grants_required`: a backend in another namespace needs a ReferenceGrant, as the standard
        demands of gateways; of mesh routes it does not.
        """
        rules = _RuleCache(snapshot, previous._rules if previous else None, grants_required)
        known = previous._shared if previous else {}
        shared: dict[tuple[str, ...], _Group] = {}
        groups: dict[GroupKey, _Group] = {}
        settled = settle_groups(snapshot.routes.values(), snapshot.services)
        for key, routes in settled.items():
            names = tuple(route.key for route in routes)
            if names not in shared:
                members = [(route, rule) for route in routes for rule in rules.of(route)]
                old = known.get(names)
                keep = old is not None and old.made_of == members
                shared[names] = old if old is not None and keep else _Group(routes, members)
            groups[key] = shared[names]
        return cls(groups, shared, rules)

    def kind(
        self, service: ServiceKey, port: int, caller_namespace: str | None
    ) -> RouteKind | None:
        """Say which kind of route rules a service port for a caller; None = no routing."""
        group = self._group(service, port, caller_namespace)
        return group.kind if group else None

    def rules(
        self, service: ServiceKey, port: int, caller_namespace: str | None
    ) -> tuple[RouteRule, ...]:
        """List the rules that a request to a service port is matched against."""
        group = self._group(service, port, caller_namespace)
        return tuple(rule.source for _, rule in group.made_of) if group else ()

    def match(self, facts: RequestFacts) -> RouteMatch | NoRoute:
        """Find the rule of a request."""
        group = self._group(facts.service, facts.port, facts.caller_namespace)
        if group is None:
            return NoRoute.NOT_ATTACHED
        if group.index is None:
            return group.l4 or NoRoute.NO_MATCH
        return group.index.find(Request(facts.head)) or NoRoute.NO_MATCH

    def match_connection(
        self, service: ServiceKey, port: int, caller_namespace: str | None, server_name: str = ""
    ) -> RouteMatch | NoRoute:
        """Find the rule of a TLS or TCP connection; NOT_ATTACHED also under an HTTP route.

        `server_name`: what a TLS client asked for; empty where it is no TLS or names none.
        """
        group = self._group(service, port, caller_namespace)
        if group is None or group.index is not None:
            return NoRoute.NOT_ATTACHED
        found = group.by_name.find(server_name) if group.by_name else group.l4
        return found or NoRoute.NO_MATCH

    def _group(self, service: ServiceKey, port: int, caller_namespace: str | None) -> _Group | None:
        groups = self._groups.get((service, port))
        if groups is None:
            return None
        if caller_namespace:
            own = groups.get(caller_namespace)
            if own is not None:
                return own
        return groups.get("")


def usable_rules(route: Route, resolver: BackendResolver) -> Rules:
    """Compile the rules that can be matched; the others are dropped, and the status says so."""
    return [
        compile_rule(route, index, resolver)
        for index, rule in enumerate(route.rules)
        if not any(problem.in_match for problem in rule.problems)
    ]


def make_resolver(snapshot: MeshSnapshot, *, grants_required: bool) -> BackendResolver:
    """Make the lookup of backends that table and status share."""
    allowed = _allowed(snapshot.grants.values()) if grants_required else None
    return BackendResolver(snapshot.services, Grants(allowed))


def _allowed(
    grants: Iterable[ReferenceGrant],
) -> frozenset[tuple[str, str, str, str | None]]:
    return frozenset(
        (source.kind, source.namespace, grant.namespace, target.name)
        for grant in grants
        for source in grant.sources
        for target in grant.targets
        if source.group == "gateway.networking.k8s.io"
        and (target.group, target.kind) == ("", "Service")
    )
