"""Route objects and TrafficPolicy: what they mean, and the words for what is wrong."""

from __future__ import annotations

import pytest

from mesh.model.routing import (
    BackendTarget,
    HeaderField,
    Mirror,
    PathMatchType,
    PathRewriteType,
    Route,
    RouteKey,
    SessionType,
)
from tests.unit.mesh.sources.route_text import FULL, HEAD, PARENT, read


def http(spec: str, kind: str = "HTTPRoute") -> Route:
    """Read one route that has no problem."""
    snapshot = read(HEAD.format(kind=kind) + PARENT + spec)
    assert snapshot.problems == ()
    return snapshot.routes[RouteKey(f"{kind}/shop/r")]


def test_every_field_of_a_rule() -> None:
    (rule,) = http(FULL).rules
    (match,) = rule.matches
    assert (match.path.kind, match.path.value, match.method) == (PathMatchType.PREFIX, "/v1", "GET")
    assert [(item.name, item.value) for item in match.headers] == [("x-user", "ann")]
    filters = rule.filters
    assert filters.request_headers is not None
    assert filters.request_headers.set == (HeaderField(name="x-a", value="1"),)
    assert filters.response_headers is not None
    assert filters.response_headers.remove == ("server",)
    assert filters.rewrite is not None
    assert filters.rewrite.path is not None
    assert filters.rewrite.path.kind is PathRewriteType.PREFIX
    target = BackendTarget(name="m", namespace="shop", port=80)
    assert filters.mirrors[0] == Mirror(target=target, numerator=20)
    assert (filters.mirrors[1].numerator, filters.mirrors[1].denominator) == (1, 3)
    assert filters.cors is not None
    assert filters.cors.max_age_s == 60
    assert [(ref.target.namespace, ref.weight) for ref in rule.backends] == [
        ("shop", 9),
        ("other", 1),
    ]
    assert (rule.timeouts.request_s, rule.timeouts.backend_request_s) == (90.0, 0.5)
    assert rule.retry is not None
    assert (rule.retry.codes, rule.retry.attempts, rule.retry.backoff_s) == ((500, 503), 3, 0.01)
    assert rule.session is not None
    assert (rule.session.kind, rule.session.permanent) == (SessionType.COOKIE, True)


def test_defaults_are_the_standards() -> None:
    (rule,) = http("  rules: [{}]\n").rules
    assert [(m.path.kind, m.path.value) for m in rule.matches] == [(PathMatchType.PREFIX, "/")]
    assert rule.backends == ()
    assert (rule.timeouts.request_s, rule.retry, rule.session) == (None, None, None)
    assert len(http("").rules) == 1
    zero = http("  rules: [{timeouts: {request: 0s}}]\n").rules[0]
    assert zero.timeouts.request_s is None


def test_a_grpc_route() -> None:
    spec = "  rules:\n  - matches: [{method: {service: a.B, method: C}}]\n"
    spec += "    backendRefs: [{name: x, port: 7070}]\n"
    (rule,) = http(spec, "GRPCRoute").rules
    assert [(item.service, item.method) for item in rule.methods] == [("a.B", "C")]


@pytest.mark.parametrize("kind", ["TCPRoute", "TLSRoute"])
def test_an_l4_route(kind: str) -> None:
    route = http("  rules: [{backendRefs: [{name: x, port: 90}]}]\n", kind)
    assert [ref.target.port for ref in route.rules[0].backends] == [90]


RULE = "  rules:\n  - "


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            RULE + "matches: [{path: {value: a}}]",
            "mesh.yaml:7: spec.rules[0].matches[0].path.value: 'a' is not a path: it starts",
        ),
        (
            RULE + "matches: [{path: {value: /a//b}}]",
            "mesh.yaml:7: spec.rules[0].matches[0].path.value: '/a//b': a path must not contain",
        ),
        (
            RULE + "matches: [{metod: GET}]",
            "mesh.yaml:7: spec.rules[0].matches[0].metod: unknown field; did you mean 'method'?",
        ),
        (
            RULE + "matches: [{method: get}]",
            "mesh.yaml:7: spec.rules[0].matches[0].method: 'get' is not one of GET, HEAD",
        ),
        (
            RULE + "backendRefs:\n    - name: x",
            "mesh.yaml:8: spec.rules[0].backendRefs[0].port: a reference to a Service needs a port",
        ),
        (
            RULE + "backendRefs: [{name: x, port: 1, weight: -1}]",
            "mesh.yaml:7: spec.rules[0].backendRefs[0].weight: -1 is not between 0 and 1000000",
        ),
        (
            RULE + "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]",
            "mesh.yaml:7: spec.rules[0].filters[0].requestRedirect.statusCode: 200 is not one of",
        ),
        (
            RULE + "filters: [{type: URLRewrite}]",
            "mesh.yaml:7: spec.rules[0].filters[0].urlRewrite: a filter of type URLRewrite needs",
        ),
        (
            RULE + "filters: [{type: CORS, cors: {}, urlRewrite: {}}]",
            "mesh.yaml:7: spec.rules[0].filters[0].urlRewrite: does not belong to a filter of type",
        ),
        (
            RULE + "filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]",
            "mesh.yaml:7: spec.rules[0].filters[1].type: CORS may stand only once",
        ),
        (
            RULE + "filters: [{type: URLRewrite, urlRewrite: {}},"
            " {type: RequestRedirect, requestRedirect: {}}]",
            "mesh.yaml:7: spec.rules[0].filters: RequestRedirect and URLRewrite exclude",
        ),
        (
            RULE + "filters: [{type: RequestRedirect, requestRedirect: {}}]\n"
            "    backendRefs: [{name: x, port: 1}]",
            "mesh.yaml:8: spec.rules[0].backendRefs: a rule that redirects has no backends",
        ),
        (
            RULE + "matches: [{path: {type: Exact, value: /}}]\n    filters: [{type: URLRewrite,"
            " urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]",
            "mesh.yaml:7: spec.rules[0].matches: ReplacePrefixMatch needs exactly one match",
        ),
        (
            RULE + "filters: [{type: RequestHeaderModifier, requestHeaderModifier:"
            " {set: [{name: a, value: b}], remove: [A]}}]",
            "mesh.yaml:7: spec.rules[0].filters[0].requestHeaderModifier: more than one action on",
        ),
        (
            RULE + "filters: [{type: RequestHeaderModifier, requestHeaderModifier:"
            ' {set: [{name: a, value: "b\\nc"}]}}]',
            "mesh.yaml:7: spec.rules[0].filters[0].requestHeaderModifier.set[0].value: not a",
        ),
        (
            RULE + "filters: [{type: RequestHeaderModifier, requestHeaderModifier:"
            " {add: [{name: Transfer-Encoding, value: chunked}]}}]",
            "mesh.yaml:7: spec.rules[0].filters[0].requestHeaderModifier: header"
            " 'transfer-encoding' belongs to the connection",
        ),
        (
            RULE + "filters: [{type: RequestMirror, requestMirror:"
            " {backendRef: {name: x, port: 1}, percent: 101}}]",
            "mesh.yaml:7: spec.rules[0].filters[0].requestMirror.percent: 101 is not between",
        ),
        (
            RULE + "filters: [{type: CORS, cors: {allowOrigins: ['*', 'http://a']}}]",
            "mesh.yaml:7: spec.rules[0].filters[0].cors.allowOrigins: '*' must stand alone",
        ),
        (
            RULE + "timeouts: {request: 1s, backendRequest: 2s}",
            "mesh.yaml:7: spec.rules[0].timeouts.backendRequest: backendRequest must not be longer",
        ),
        (
            RULE + "timeouts: {request: 1.5s}",
            "mesh.yaml:7: spec.rules[0].timeouts.request: '1.5s' is not a duration such as",
        ),
        (
            RULE + "retry: {codes: [200]}",
            "mesh.yaml:7: spec.rules[0].retry.codes[0]: 200 is not between 400 and 599",
        ),
        (
            RULE + "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}",
            "mesh.yaml:7: spec.rules[0].sessionPersistence.absoluteTimeout: a Permanent cookie",
        ),
        (
            "  rules: [{name: a}, {name: a}]",
            "mesh.yaml:6: spec.rules[0].name: rule name 'a' is not unique",
        ),
        (
            "  rules: [" + ", ".join(["{}"] * 17) + "]",
            "mesh.yaml:6: spec.rules: at most 16 are allowed, this list has 17",
        ),
        (
            RULE + "filters: [{type: ExternalAuth, externalAuth: {}}]",
            "mesh.yaml:1: spec.rules[0].filters[0].type: filters of type 'ExternalAuth' are not"
            " supported: its requests are answered 500",
        ),
        (
            RULE + "matches: [{path: {type: RegularExpression, value: '(?=a)'}}]",
            "mesh.yaml:1: spec.rules[0].matches[0].path.value: '(?=a)' is not a regular expression"
            " of RE2: invalid perl operator: (?=: the rule is dropped",
        ),
    ],
)
def test_what_is_wrong_with_a_route(spec: str, message: str) -> None:
    (problem,) = read(HEAD.format(kind="HTTPRoute") + PARENT + spec + "\n").problems
    assert f"{problem.where}: {problem.message}".startswith(message)


def test_an_empty_list_of_matches_is_the_default_match() -> None:
    assert http("  rules: [{matches: []}]\n").rules[0].matches[0].path.value == "/"
