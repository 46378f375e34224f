"""Builders: a test spells only what it is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.model.routing import (
    BackendRef,
    BackendTarget,
    HttpMatch,
    ParentRef,
    PathMatch,
    PathMatchType,
    Route,
    RouteKey,
    RouteKind,
    RouteRule,
    ValueMatch,
)
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Service, ServiceKey, ServicePort
from mesh.routing.message import RequestFacts, RequestHead
from mesh.sources.file_state import FileState, read_text
from mesh.sources.objects import ObjectSet
from mesh.state.reducer import reduce

API = ServiceKey("shop/api")


def service(
    name: str, *ports: int, namespace: str = "shop", app_protocol: str = "", headless: bool = False
) -> Service:
    """Make a service; port 80 by default, ports are named `p<number>`."""
    return Service(
        key=ServiceKey(f"{namespace}/{name}"),
        name=name,
        namespace=namespace,
        hostname=f"{name}.{namespace}.svc.cluster.local",
        addresses=(),
        ports=tuple(
            ServicePort(port=port, name=f"p{port}", app_protocol=app_protocol)
            for port in ports or (80,)
        ),
    )


def snapshot(services: Iterable[Service], routes: Iterable[Route]) -> MeshSnapshot:
    """Make a snapshot."""
    return MeshSnapshot(
        revision=1,
        services={item.key: item for item in services},
        routes={item.key: item for item in routes},
    )


def exact(path: str) -> PathMatch:
    """Match a path exactly."""
    return PathMatch(kind=PathMatchType.EXACT, value=path)


def prefix(path: str) -> PathMatch:
    """Match a path prefix."""
    return PathMatch(kind=PathMatchType.PREFIX, value=path)


def regex(path: str) -> PathMatch:
    """Match a path by expression."""
    return PathMatch(kind=PathMatchType.REGEX, value=path)


def header(name: str, value: str) -> ValueMatch:
    """Match a header or query parameter exactly."""
    return ValueMatch(name=name, value=value)


def rule(*matches: HttpMatch, to: str = "v1", name: str = "") -> RouteRule:
    """Make a rule with one backend."""
    target = BackendTarget(name=to, namespace="shop", port=80)
    return RouteRule(
        name=name, matches=matches or (HttpMatch(),), backends=(BackendRef(target=target),)
    )


def route(
    name: str,
    rules: Sequence[RouteRule],
    *,
    namespace: str = "shop",
    parent: str = "api",
    port: int | None = None,
    created: str = "",
    kind: RouteKind = RouteKind.HTTP,
) -> Route:
    """Make a route on a service of `shop`."""
    return Route(
        key=RouteKey(f"{kind}/{namespace}/{name}"),
        kind=kind,
        namespace=namespace,
        name=name,
        parents=(ParentRef(name=parent, namespace="shop", port=port),),
        rules=tuple(rules),
        created=created,
    )


def facts(
    path: str = "/",
    *,
    method: str = "GET",
    query: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    port: int = 80,
    caller: str | None = "web",
    to: ServiceKey = API,
) -> RequestFacts:
    """Make the facts of a request to shop/api."""
    head = RequestHead(
        method=method, path=path, authority="api", query=query, headers=tuple(headers)
    )
    return RequestFacts(service=to, port=port, caller_namespace=caller, head=head)


def read(text: str) -> MeshSnapshot:
    """Read objects as a source would."""
    state = read_text("mesh.yaml", text.encode(), FileState())
    return reduce(ObjectSet(objects=state.objects, problems=state.problems), None)
