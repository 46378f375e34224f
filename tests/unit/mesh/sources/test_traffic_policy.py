"""TrafficPolicy: what it means, and the words for what is wrong."""

from __future__ import annotations

import pytest

from mesh.model.policy import PolicyKey
from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import (
    Algorithm,
    HashSource,
    LoadBalancing,
    RateLimitKey,
    RetryOn,
    RetryPolicy,
)
from mesh.state.delta import apply_delta, decode_delta, diff, encode_delta
from tests.unit.mesh.sources.route_text import FULL, HEAD, PARENT, read

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
