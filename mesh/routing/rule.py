"""A rule ready for use: backends looked up, weights summed, conditions compiled."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from random import Random

from mesh.model.routing import (
    BackendRef,
    BackendTarget,
    Mirror,
    Route,
    RouteFilters,
    RouteKey,
    RouteKind,
    RouteRule,
)
from mesh.model.workload import Service, ServiceKey


class BackendFailure(StrEnum):
    """Why a backend cannot be used: reasons of the ResolvedRefs condition."""

    INVALID_KIND = "InvalidKind"
    NOT_FOUND = "BackendNotFound"
    NOT_PERMITTED = "RefNotPermitted"
    UNSUPPORTED_PROTOCOL = "UnsupportedProtocol"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorBackend:
    """A mirror and the service that gets the copies."""

    mirror: Mirror
    service: ServiceKey
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A backendRef and what it leads to. With a `failure`, its share is answered 500."""

    ref: BackendRef
    service: ServiceKey
    port: int
    app_protocol: str = ""
    failure: BackendFailure | None = None
    mirrors: tuple[MirrorBackend, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """One rule.

    Attributes:
        unusable: a filter of it cannot be applied, so every request is answered 500.
    """

    route: RouteKey
    kind: RouteKind
    index: int
    source: RouteRule
    backends: tuple[Backend, ...]
    mirrors: tuple[MirrorBackend, ...] = ()
    unusable: str | None = None
    _bounds: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        bounds = tuple(accumulate(backend.ref.weight for backend in self.backends))
        object.__setattr__(self, "_bounds", bounds)

    @property
    def filters(self) -> RouteFilters:
        """The filters of the rule itself."""
        return self.source.filters

    def choose(self, random: Random) -> Backend | None:
        """Choose a backend by weight; None where no backend has any: answer 500.

        The chosen one may have a `failure`: then answer 500 too, for it is that backend's share.
        """
        if not self._bounds or not self._bounds[-1]:
            return None
        if len(self._bounds) == 1:
            return self.backends[0]
        return self.backends[bisect_right(self._bounds, random.randrange(self._bounds[-1]))]

    def sampled_mirrors(self, random: Random, backend: Backend | None) -> list[MirrorBackend]:
        """Say which mirrors, of the rule and of the chosen backend, get a copy of a request."""
        return [
            item
            for item in (*self.mirrors, *(backend.mirrors if backend else ()))
            if item.mirror.numerator >= item.mirror.denominator
            or random.randrange(item.mirror.denominator) < item.mirror.numerator
        ]


class Grants:
    """Whether a route may refer into another namespace. In a mesh it may (GAMMA)."""

    def __init__(self, allowed: frozenset[tuple[str, str, str, str | None]] | None) -> None:
        """`allowed`: (route kind, its namespace, target namespace, name or None); None = all."""
        self._allowed = allowed

    def permits(self, route: Route, target: BackendTarget) -> bool:
        """Say whether a route may use a Service."""
        if self._allowed is None or target.namespace == route.namespace:
            return True
        key = (str(route.kind), route.namespace, target.namespace)
        return (*key, None) in self._allowed or (*key, target.name) in self._allowed


# appProtocol values (KEP-3726, Istio) that are no HTTP at all.
_NOT_HTTP = frozenset({"tcp", "tls", "mysql", "redis", "mongo", "kubernetes.io/wss"})
_NOT_GRPC = _NOT_HTTP | {"kubernetes.io/ws"}


class BackendResolver:
    """Looks backends up among the services of one snapshot."""

    def __init__(self, services: Mapping[ServiceKey, Service], grants: Grants) -> None:
        self._services = services
        self._grants = grants

    def backend(self, route: Route, ref: BackendRef) -> Backend:
        """Resolve a backendRef."""
        key = ServiceKey(f"{ref.target.namespace}/{ref.target.name}")
        failure, protocol = self._look(route, ref.target, key)
        port = ref.target.port or 0
        return Backend(
            ref=ref,
            service=key,
            port=port,
            app_protocol=protocol,
            failure=failure,
            mirrors=self.mirrors(route, ref.filters),
        )

    def mirrors(self, route: Route, filters: RouteFilters) -> tuple[MirrorBackend, ...]:
        """Resolve the mirrors of a rule or of a backend, without those that fail."""
        resolved = (self.mirror(route, mirror) for mirror in filters.mirrors)
        return tuple(item for item in resolved if isinstance(item, MirrorBackend))

    def mirror(self, route: Route, mirror: Mirror) -> MirrorBackend | BackendFailure:
        """Resolve a mirror; one that fails gets no copies."""
        key = ServiceKey(f"{mirror.target.namespace}/{mirror.target.name}")
        failure, _ = self._look(route, mirror.target, key)
        return failure or MirrorBackend(mirror=mirror, service=key, port=mirror.target.port or 0)

    def _look(
        self, route: Route, target: BackendTarget, key: ServiceKey
    ) -> tuple[BackendFailure | None, str]:
        if not target.is_service:
            return BackendFailure.INVALID_KIND, ""
        # Before existence: a route that may not look must not learn what is there.
        if not self._grants.permits(route, target):
            return BackendFailure.NOT_PERMITTED, ""
        service = self._services.get(key)
        ports = service.ports if service else ()
        port = next((item for item in ports if item.port == target.port), None)
        if port is None:
            return BackendFailure.NOT_FOUND, ""
        refused = {RouteKind.HTTP: _NOT_HTTP, RouteKind.GRPC: _NOT_GRPC}.get(route.kind)
        if refused and port.app_protocol.lower() in refused:
            return BackendFailure.UNSUPPORTED_PROTOCOL, port.app_protocol
        return None, port.app_protocol


def compile_rule(route: Route, index: int, resolver: BackendResolver) -> CompiledRule:
    """Compile one rule of a route."""
    rule = route.rules[index]
    broken = next((problem for problem in rule.problems if not problem.in_match), None)
    return CompiledRule(
        route=route.key,
        kind=route.kind,
        index=index,
        source=rule,
        backends=tuple(resolver.backend(route, ref) for ref in rule.backends),
        mirrors=resolver.mirrors(route, rule.filters),
        unusable=f"{broken.field}: {broken.message}" if broken else None,
    )
