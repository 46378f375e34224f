"""The compiled table against the plain reference, and who is ruled by which route."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.model.routing import (
    GrpcMatch,
    HttpMatch,
    PathMatch,
    Route,
    RouteKind,
    RouteRule,
    ValueMatch,
    ValueMatchType,
)
from mesh.model.workload import ServiceKey
from mesh.routing.index import RouteMatch
from mesh.routing.message import RequestFacts
from mesh.routing.regex import compile_pattern, literal_prefix
from mesh.routing.rule import BackendFailure
from mesh.routing.table import NoRoute, RouteTable
from tests.unit.mesh.routing import build, reference

WORDS = st.sampled_from(["a", "b", "ab", "v1"])
PATHS = st.lists(WORDS, max_size=3).map(lambda words: "/" + "/".join(words))
PATTERNS = st.sampled_from(["/a.*", "/.*b", "/a/v[0-9]+", "/a/b?", ".*", "/(a|b)/.*", "/b/+v1"])
NAMES, VALUES = st.sampled_from(["x", "y", "z"]), st.sampled_from(["1", "2", "10"])


@st.composite
def value_matches(draw: st.DrawFn) -> ValueMatch:
    """A header or query condition."""
    if draw(st.booleans()):
        return build.header(draw(NAMES), draw(VALUES))
    pattern = draw(st.sampled_from(["1.*", "[0-9]", ".*0"]))
    return ValueMatch(name=draw(NAMES), value=pattern, kind=ValueMatchType.REGEX)


CONDITIONS = st.lists(value_matches(), max_size=2, unique_by=lambda item: item.name).map(tuple)
PATH_MATCHES: st.SearchStrategy[PathMatch] = st.one_of(
    PATHS.map(build.exact),
    PATHS.map(build.prefix),
    PATHS.map(lambda path: build.prefix(path.rstrip("/") + "/")),
    PATTERNS.map(build.regex),
)
METHODS = st.sampled_from([None, None, "GET", "POST"])
MATCHES = st.builds(
    HttpMatch, path=PATH_MATCHES, method=METHODS, headers=CONDITIONS, query=CONDITIONS
)
RULES = st.lists(MATCHES, min_size=1, max_size=4).map(lambda found: build.rule(*found))
ROUTES = st.lists(
    st.tuples(st.lists(RULES, min_size=1, max_size=3), st.sampled_from(["", "2024", "2025"])),
    min_size=1,
    max_size=5,
).map(
    lambda items: [
        build.route(f"r{number}", rules, created=created)
        for number, (rules, created) in enumerate(items)
    ]
)
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=3)
REQUESTS = st.builds(
    lambda path, slash, method, headers, query: build.facts(
        path + slash,
        method=method,
        headers=headers,
        query="&".join(f"{name}={value}" for name, value in query),
    ),
    PATHS,
    st.sampled_from(["", "", "/", "//"]),
    st.sampled_from(["GET", "POST", "PUT"]),
    PAIRS,
    PAIRS,
)


@settings(max_examples=50, deadline=None)
@given(routes=ROUTES, requests=st.lists(REQUESTS, min_size=1, max_size=8))
def test_every_choice_is_the_references(routes: list[Route], requests: list[RequestFacts]) -> None:
    table = RouteTable.compile(build.snapshot([build.service("api")], routes))
    for facts in requests:
        found = table.match(facts)
        wanted = reference.choose(routes, facts.head)
        if wanted is None:
            assert found is NoRoute.NO_MATCH
        else:
            assert isinstance(found, RouteMatch)
            assert (found.route, found.rule.index, found.match) == wanted


def test_a_new_table_takes_over_what_did_not_change() -> None:
    api, web = build.service("api"), build.service("web")
    backends = [build.service("v1"), build.service("v2")]
    one = build.route("one", [build.rule()])
    two = build.route("two", [build.rule()], parent="web")
    first = RouteTable.compile(build.snapshot([api, web, *backends], [one, two]))
    other = build.route("two", [build.rule(to="v2")], parent="web")
    second = RouteTable.compile(build.snapshot([api, web, *backends], [one, other]), first)
    assert second.match(build.facts()) is first.match(build.facts())
    moved = second.match(build.facts(to=web.key))
    assert isinstance(moved, RouteMatch)
    assert [item.service for item in moved.rule.backends] == ["shop/v2"]
    # A backend that goes away changes the rule, though the route is the same object.
    third = RouteTable.compile(build.snapshot([api, web, backends[1]], [one, other]), second)
    broken = third.match(build.facts())
    assert isinstance(broken, RouteMatch)
    assert broken.rule.backends[0].failure is BackendFailure.NOT_FOUND
    assert third.match(build.facts(to=web.key)) is moved


def test_a_service_without_routes_is_left_alone() -> None:
    table = RouteTable.compile(build.snapshot([build.service("api")], []))
    assert table.match(build.facts()) is NoRoute.NOT_ATTACHED
    assert table.kind(build.API, 80, None) is None


def test_a_port_limits_a_route() -> None:
    one = build.route("one", [build.rule()], port=80)
    table = RouteTable.compile(build.snapshot([build.service("api", 80, 81)], [one]))
    assert isinstance(table.match(build.facts()), RouteMatch)
    assert table.match(build.facts(port=81)) is NoRoute.NOT_ATTACHED


def test_routes_with_and_without_a_port_are_merged() -> None:
    narrow = build.route("narrow", [build.rule(HttpMatch(path=build.prefix("/n")))], port=80)
    wide = build.route("wide", [build.rule(HttpMatch(path=build.prefix("/w")))])
    table = RouteTable.compile(build.snapshot([build.service("api", 80, 81)], [narrow, wide]))
    for path, port, name in (("/n", 80, "narrow"), ("/w", 80, "wide"), ("/w", 81, "wide")):
        found = table.match(build.facts(path, port=port))
        assert isinstance(found, RouteMatch)
        assert found.route == f"HTTPRoute/shop/{name}"
    assert table.match(build.facts("/n", port=81)) is NoRoute.NO_MATCH


def test_a_consumer_route_replaces_the_producers_for_its_namespace_only() -> None:
    producer = build.route("p", [build.rule()])
    consumer = build.route("c", [build.rule(HttpMatch(path=build.exact("/x")))], namespace="web")
    table = RouteTable.compile(build.snapshot([build.service("api")], [producer, consumer]))

    def name(path: str, caller: str | None) -> str:
        found = table.match(build.facts(path, caller=caller))
        return found.route if isinstance(found, RouteMatch) else str(found)

    assert name("/x", "web") == "HTTPRoute/web/c"
    assert name("/y", "web") == "no_match"
    assert name("/x", "other") == "HTTPRoute/shop/p"
    assert name("/x", None) == "HTTPRoute/shop/p"


def test_one_kind_of_route_rules_a_port() -> None:
    http = build.route("h", [build.rule()])
    tcp = build.route("t", [RouteRule()], kind=RouteKind.TCP)
    services = [build.service("api")]
    table = RouteTable.compile(build.snapshot(services, [tcp, http]))
    assert table.kind(build.API, 80, None) is RouteKind.HTTP
    assert table.match_connection(build.API, 80, None) is NoRoute.NOT_ATTACHED
    alone = RouteTable.compile(build.snapshot(services, [tcp]))
    found = alone.match_connection(build.API, 80, None)
    assert isinstance(found, RouteMatch)
    assert found.route == "TCPRoute/shop/t"
    assert alone.match(build.facts()) == found


@pytest.mark.parametrize(
    ("path", "headers", "rule"),
    [
        ("/a.B/One", (), 0),
        ("/a.B/Two", (), 1),
        ("/c.D/One", (), 2),
        ("/c.D/Two", (), 4),
        ("/c.D/Two", (("x", "1"),), 3),
        ("/not/a/call", (), 4),
        ("/zz9/Q", (), 5),
    ],
)
def test_calls_of_grpc(path: str, headers: tuple[tuple[str, str], ...], rule: int) -> None:
    methods = [
        GrpcMatch(service="a.B", method="One"),
        GrpcMatch(service="a.B"),
        GrpcMatch(method="One"),
        GrpcMatch(headers=(build.header("x", "1"),)),
        GrpcMatch(),
        GrpcMatch(service="z+[0-9]", kind=ValueMatchType.REGEX),
    ]
    rules = [RouteRule(methods=(match,)) for match in methods]
    route = build.route("g", rules, kind=RouteKind.GRPC)
    table = RouteTable.compile(build.snapshot([build.service("api")], [route]))
    found = table.match(build.facts(path, method="POST", headers=headers))
    assert isinstance(found, RouteMatch)
    assert found.rule.index == rule


def test_the_host_header_is_the_authority() -> None:
    rules = [build.rule(HttpMatch(headers=(build.header("host", "api"),)))]
    table = RouteTable.compile(build.snapshot([build.service("api")], [build.route("r", rules)]))
    assert isinstance(table.match(build.facts(headers=(("host", "liar"),))), RouteMatch)


def test_weights() -> None:
    text = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - backendRefs: [{name: a, port: 80, weight: 7}, {name: b, port: 80, weight: 0},
                  {name: c, port: 80, weight: 3}]
  - matches: [{path: {value: /none}}]
    backendRefs: [{name: a, port: 80, weight: 0}]
"""
    routes = build.read(text).routes
    services = [build.service(name) for name in ("api", "a", "b", "c")]
    table = RouteTable.compile(build.snapshot(services, routes.values()))
    found = table.match(build.facts())
    assert isinstance(found, RouteMatch)
    random = Random(7)
    chosen = [found.rule.choose(random) for _ in range(2000)]
    names = [backend.service for backend in chosen if backend]
    assert set(names) == {"shop/a", "shop/c"}
    assert 1300 < names.count(ServiceKey("shop/a")) < 1500
    nothing = table.match(build.facts("/none"))
    assert isinstance(nothing, RouteMatch)
    assert nothing.rule.choose(random) is None


@given(st.text(alphabet="ab/.*+?|()[]{}\\^$1,", max_size=8), st.text(alphabet="ab/1", max_size=8))
def test_a_literal_prefix_starts_every_match(pattern: str, text: str) -> None:
    try:
        compiled = compile_pattern(pattern)
    except ConfigError:
        return
    if compiled.matches(text):
        assert text.startswith(literal_prefix(pattern))
