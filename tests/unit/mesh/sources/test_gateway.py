"""Route objects and TrafficPolicy: what they mean, and the words for what is wrong."""

from __future__ import annotations

import pytest

from mesh.model.policy import PolicyKey
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
from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import (
    Algorithm,
    HashSource,
    LoadBalancing,
    RateLimitKey,
    RetryOn,
    RetryPolicy,
)
from mesh.sources.file_state import FileState, read_text
from mesh.sources.objects import ObjectSet
from mesh.state.delta import apply_delta, decode_delta, diff, encode_delta
from mesh.state.reducer import reduce

HEAD = """\
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r, namespace: shop}}
spec:
"""
PARENT = "  parentRefs: [{group: '', kind: Service, name: api, port: 80}]\n"

FULL = """\
  hostnames: [api.example.com, "*.example.org"]
  rules:
  - name: all
    matches:
    - path: {type: PathPrefix, value: /v1}
      method: GET
      headers: [{name: X-User, value: ann}, {name: x-user, value: bob}]
      queryParams: [{name: a, value: 'b.*', type: RegularExpression}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-A, value: "1"}], add: [{name: x-b, value: "2"}]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {remove: [Server]}
    - type: URLRewrite
      urlRewrite: {hostname: b.local, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    - type: RequestMirror
      requestMirror: {backendRef: {name: m, port: 80}, percent: 20}
    - type: RequestMirror
      requestMirror: {backendRef: {name: n, port: 80}, fraction: {numerator: 1, denominator: 3}}
    - type: CORS
      cors: {allowOrigins: ["https://*.example.com"], allowMethods: [GET], maxAge: 60}
    backendRefs:
    - {name: one, port: 80, weight: 9}
    - name: two
      namespace: other
      port: 8080
      filters: [{type: URLRewrite, urlRewrite: {hostname: two.local}}]
    timeouts: {request: 1m30s, backendRequest: 500ms}
    retry: {codes: [500, 503], attempts: 3, backoff: 10ms}
    sessionPersistence:
      {sessionName: S, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}
"""


def read(text: str) -> MeshSnapshot:
    """Read a file and build a snapshot."""
    state = read_text("mesh.yaml", text.encode(), FileState())
    return reduce(ObjectSet(objects=state.objects, problems=state.problems), None)


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


POLICY = """\
apiVersion: meshnode.io/v1alpha1
kind: TrafficPolicy
metadata: {name: p, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: api}]
"""
POLICY_FULL = """\
  loadBalancing:
    algorithm: RingHash
    hash: [{header: X-User, terminal: true}, {cookie: {name: c, ttl: 1h}}, {sourceIP: true}]
  outlierDetection: {failurePercent: 20, consecutiveGatewayFailures: 3, panicPercent: 40}
  limits: {maxRequests: 100, maxEndpointRequests: 9}
  retry: {attempts: 3, on: [Reset, GatewayError], codes: [429], grpcCodes: [14], perTryTimeout: 1s}
  retryBudget: {percent: 10}
  hedging: {after: 100ms}
  rateLimits: [{requests: 10, by: Identity, shadow: true}]
  faults: [{delay: {duration: 1s, percent: 5}, abort: {httpStatus: 503, percent: 1}}]
  bandwidth: {response: 1Mi}
  sessionPersistence: {type: Header, sessionName: X-S}
"""


def test_every_part_of_a_traffic_policy() -> None:
    snapshot = read(POLICY + POLICY_FULL)
    assert snapshot.problems == ()
    policy = snapshot.traffic_policies[PolicyKey("shop/p")]
    assert policy.load_balancing is not None
    assert policy.load_balancing.algorithm is Algorithm.RING_HASH
    assert [key.source for key in policy.load_balancing.hash_keys] == [
        HashSource.HEADER,
        HashSource.COOKIE,
        HashSource.SOURCE_IP,
    ]
    assert policy.outlier_detection is not None
    assert policy.outlier_detection.failure_percent == 20
    assert policy.limits is not None
    assert (policy.limits.max_requests, policy.limits.max_connections) == (100, None)
    assert policy.limits.max_endpoint_requests == 9
    assert policy.outlier_detection.consecutive_gateway_failures == 3
    assert policy.outlier_detection.panic_percent == 40
    assert policy.retry == RetryPolicy(
        attempts=3,
        on=frozenset({RetryOn.RESET, RetryOn.GATEWAY_ERROR}),
        codes=frozenset({429}),
        grpc_codes=frozenset({14}),
        per_try_timeout_s=1.0,
    )
    assert policy.retry_budget is not None
    assert (policy.retry_budget.percent, policy.retry_budget.min_per_s) == (10, 10)
    (limit,) = policy.rate_limits
    assert (limit.key, limit.burst, limit.per_s) == (RateLimitKey.IDENTITY, 10, 1.0)
    (fault,) = policy.faults
    assert (fault.delay_s, fault.http_status) == (1.0, 503)
    assert policy.bandwidth is not None
    assert policy.bandwidth.response_bytes_per_s == 1 << 20
    assert policy.session is not None
    assert policy.session.name == "x-s"


def test_the_defaults_of_balancing() -> None:
    snapshot = read(POLICY + "  loadBalancing: {}\n")
    policy = snapshot.traffic_policies[PolicyKey("shop/p")]
    assert policy.load_balancing == LoadBalancing()
    assert policy.load_balancing.algorithm is Algorithm.LEAST_REQUEST


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("loadBalancing: {algorithm: Maglev}", "spec.loadBalancing.algorithm: Maglev needs hash"),
        ("loadBalancing: {hash: [{header: a}]}", "spec.loadBalancing.hash: hash goes with"),
        (
            "loadBalancing: {maglev: {tableSize: 65536}}",
            "spec.loadBalancing.maglev.tableSize: 65536 is not a prime number",
        ),
        (
            "loadBalancing: {algorithm: PeakEWMA, slowStart: {window: 1s}}",
            "spec.loadBalancing.slowStart: slow start goes with RoundRobin and LeastRequest",
        ),
        ("outlierDetection: {consecutiveFailures: 0}", "spec.outlierDetection: neither"),
        ("rateLimits: [{requests: 0}]", "spec.rateLimits[0].requests: 0 is not between 1"),
        ("rateLimits: [{requests: 1, by: Header}]", "spec.rateLimits[0].header: header goes with"),
        ("faults: [{}]", "spec.faults[0]: a fault needs a delay, an abort or both"),
        (
            "faults: [{abort: {percent: 1, httpStatus: 500, grpcStatus: 2}}]",
            "spec.faults[0].abort: want one of httpStatus and grpcStatus",
        ),
        ("retryBudget: {percent: 101}", "spec.retryBudget.percent: 101.0 is not a percentage"),
        ("bandwidth: {request: fast}", "spec.bandwidth.request: 'fast' is not bytes per second"),
        ("retry: {codes: [200]}", "spec.retry.codes[0]: 200 is not between 400 and 599"),
        ("retry: {on: [Never]}", "spec.retry.on[0]: invalid enum value 'Never'"),
        ("retry: {backoff: {base: 1s}}", "spec.retry.backoff.maximum: shorter than base"),
        ("hedging: {after: 0s}", "spec.hedging.after: the duration must be longer than zero"),
        ("selector: {matchLabels: {a: b}}", "spec.selector: selector and targetRefs exclude each"),
        (
            "connectionRateLimits: [{connections: 0}]",
            "spec.connectionRateLimits[0].connections: 0 is not between 1",
        ),
        (
            "connectionRateLimits: [{connections: 1, by: Header}]",
            "spec.connectionRateLimits[0].by: a connection that is no HTTP has no header",
        ),
        (
            "limits: {maxCallerConnections: 0}",
            "spec.limits.maxCallerConnections: 0 is not between 1",
        ),
    ],
)
def test_what_is_wrong_with_a_traffic_policy(spec: str, message: str) -> None:
    (problem,) = read(POLICY + f"  {spec}\n").problems
    assert problem.where == "mesh.yaml:6"
    assert problem.message.startswith(message)


def test_a_target_of_an_unknown_kind() -> None:
    text = POLICY.replace("kind: Service", "kind: Pod")
    (problem,) = read(text).problems
    assert problem.message.startswith("spec.targetRefs[0].kind: 'Pod' cannot be a target")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "spec.targetRefs: the policy needs a target, or a selector of pods"),
        (
            "{group: gateway.networking.k8s.io, kind: Gateway, name: g, sectionName: x}",
            "spec.targetRefs[0].sectionName: a policy holds for the whole Gateway",
        ),
        ("{kind: Gateway, name: g}", "spec.targetRefs[0].kind: 'Gateway' cannot be a target"),
    ],
)
def test_what_is_wrong_with_targets(target: str, message: str) -> None:
    text = (
        "apiVersion: meshnode.io/v1alpha1\nkind: TrafficPolicy\n"
        f"metadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{target}]}}\n"
    )
    (problem,) = read(text).problems
    assert problem.message.startswith(message)


def test_routes_and_policies_survive_the_wire() -> None:
    grant = (
        "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n"
        "metadata: {name: g, namespace: other}\nspec:\n"
        "  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]\n"
        "  to: [{group: '', kind: Service}]\n"
    )
    text = HEAD.format(kind="HTTPRoute") + PARENT + FULL + "---\n" + POLICY + POLICY_FULL + grant
    full, empty = read(text), MeshSnapshot(revision=0)
    assert (len(full.routes), len(full.grants), len(full.traffic_policies)) == (1, 1, 1)
    there = apply_delta(empty, decode_delta(encode_delta(diff(empty, full))))
    assert there == full
    assert apply_delta(there, decode_delta(encode_delta(diff(full, empty)))) == empty
