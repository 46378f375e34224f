"""How long route choice takes with few and with very many routes: `python -m bench.routing`.

One service; every route has three rules: an exact path, a prefix with a header, an expression.
Requests ask for all of them and for paths that nothing matches. Prints the time to compile, anew
and again with nothing changed, and the median and 99th percentile of one choice for 10, 1,000
and 10,000 routes.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from random import Random

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
from mesh.routing.table import RouteTable

SIZES = (10, 1_000, 10_000)
CHOICES = 20_000
MOST_US = 10.0
MOST_GROWTH = 2.0
SERVICE = ServiceKey("shop/api")


def _rule(match: HttpMatch) -> RouteRule:
    target = BackendTarget(name="api", namespace="shop", port=80)
    return RouteRule(matches=(match,), backends=(BackendRef(target=target),))


def _route(number: int) -> Route:
    tenant = ValueMatch(name="x-tenant", value=f"t{number}")
    paths = (
        PathMatch(kind=PathMatchType.EXACT, value=f"/r{number}/exact"),
        PathMatch(kind=PathMatchType.PREFIX, value=f"/r{number}/prefix"),
        PathMatch(kind=PathMatchType.REGEX, value=f"/r{number}/v[0-9]+"),
    )
    matches = (*(HttpMatch(path=path) for path in paths), HttpMatch(headers=(tenant,)))
    return Route(
        key=RouteKey(f"HTTPRoute/shop/r{number:05}"),
        kind=RouteKind.HTTP,
        namespace="shop",
        name=f"r{number:05}",
        parents=(ParentRef(name="api", namespace="shop"),),
        rules=tuple(map(_rule, matches)),
    )


def _requests(routes: int) -> list[RequestFacts]:
    random = Random(1)
    paths = ("/r{}/exact", "/r{}/prefix/a/b", "/r{}/v17", "/tenant", "/r{}/nothing")
    found = []
    for number in range(CHOICES):
        route = random.randrange(routes)
        headers = (
            ("user-agent", "bench"),
            ("accept", "*/*"),
            ("x-tenant", f"t{route}" if number % 5 == 3 else "nobody"),
        )
        path = paths[number % 5].format(route)
        head = RequestHead(method="GET", path=path, authority="api", headers=headers)
        found.append(RequestFacts(service=SERVICE, port=80, caller_namespace="web", head=head))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTimes:
    """Seconds to compile, anew and with nothing changed; microseconds to choose."""

    compile_s: float
    unchanged_s: float
    p50_us: float
    p99_us: float


def measure(routes: int) -> RouteTimes:
    """Compile so many routes and choose among them."""
    service = Service(
        key=SERVICE,
        name="api",
        namespace="shop",
        hostname="api.shop.svc.cluster.local",
        addresses=(),
        ports=(ServicePort(port=80),),
    )
    built = {route.key: route for route in map(_route, range(routes))}
    begin = time.perf_counter()
    snapshot = MeshSnapshot(revision=1, services={SERVICE: service}, routes=built)
    table = RouteTable.compile(snapshot)
    compiled = time.perf_counter() - begin
    begin = time.perf_counter()
    RouteTable.compile(snapshot, table)
    unchanged = time.perf_counter() - begin
    times = []
    for facts in _requests(routes):
        begin = time.perf_counter()
        table.match(facts)
        times.append((time.perf_counter() - begin) * 1e6)
    p99 = statistics.quantiles(times, n=100)[98]
    return RouteTimes(
        compile_s=compiled, unchanged_s=unchanged, p50_us=statistics.median(times), p99_us=p99
    )


def _show(routes: int) -> float:
    found = measure(routes)
    print(f"{routes:6} routes: compile {found.compile_s:.3f} s, ", end="")
    print(f"unchanged {found.unchanged_s:.3f} s, ", end="")
    print(f"choice p50 {found.p50_us:.1f} us, p99 {found.p99_us:.1f} us")
    return found.p50_us


def main() -> int:
    """Measure and print; 1 where a bound is missed."""
    few, many, very_many = map(_show, SIZES)
    good = very_many <= MOST_US and many <= MOST_GROWTH * few
    print(f"bounds (10,000 routes <= {MOST_US:.0f} us, 1,000 <= 2 x 10): ", end="")
    print("kept" if good else "missed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
