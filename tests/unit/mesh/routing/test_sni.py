"""TLSRoutes by server name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.model.routing import Route, RouteKind
from mesh.routing.index import RouteMatch
from mesh.routing.table import NoRoute, RouteTable
from tests.unit.mesh.routing.build import API, facts, route, rule, service, snapshot


def tls(name: str, *hostnames: str, created: str = "") -> Route:
    made = route(name, [rule()], kind=RouteKind.TLS, created=created)
    return replace(made, hostnames=hostnames)


def table(*routes: Route) -> RouteTable:
    return RouteTable.compile(snapshot([service("api"), service("v1")], routes))


ROUTES = table(
    tls("exact", "a.b.c"),
    tls("short", "*.c"),
    tls("long", "*.b.c"),
    tls("newer", "a.b.c", created="2024-02-01T00:00:00Z"),
)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.b.c", "exact"),
        ("A.B.C.", "exact"),
        ("x.b.c", "long"),
        ("x.y.b.c", "long"),
        ("b.c", "short"),
        ("c", None),
        ("", None),
        ("a.b.c.d", None),
    ],
)
def test_exact_names_then_longer_wildcards(name: str, wanted: str | None) -> None:
    found = ROUTES.match_connection(API, 80, None, name)
    if wanted is None:
        assert found is NoRoute.NO_MATCH
    else:
        assert isinstance(found, RouteMatch)
        assert found.route == f"TLSRoute/shop/{wanted}"


def test_a_route_without_hostnames_takes_the_rest() -> None:
    both = table(tls("some", "a.b"), tls("rest"))
    found = both.match_connection(API, 80, None, "x.y")
    assert isinstance(found, RouteMatch)
    assert found.route == "TLSRoute/shop/rest"
    assert isinstance(both.match_connection(API, 80, None, ""), RouteMatch)


def test_http_in_plain_text_is_no_match_for_tls_routes() -> None:
    assert table(tls("rest")).match(facts()) is NoRoute.NO_MATCH
