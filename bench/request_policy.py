"""How long judging a request takes with very many policies: `python -m bench.request_policy`.

10,000 policies of 10 rules each on one waypoint, ALLOW and DENY mixed, every rule with other
paths, hosts, headers, claims or principals. The last ALLOW rule is the one that matches. Prints
the compile time and the median and 99th percentile of a decision.
"""

from __future__ import annotations

import statistics
import time
from ipaddress import IPv4Address

from mesh.model.address import SocketAddress
from mesh.model.claims import Claims
from mesh.model.identity import SpiffeId
from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    NamedMatch,
    PolicyAction,
    PolicyKey,
    PolicyScope,
    PolicyTarget,
    RequestMatch,
    Rule,
    StringMatch,
    TargetKind,
)
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import ServiceKey
from mesh.policy.l7.engine import RequestIndex
from mesh.policy.l7.facts import RequestFacts

POLICIES = 10_000
RULES = 10
DECISIONS = 20_000


def _texts(*values: str) -> tuple[StringMatch, ...]:
    return tuple(
        StringMatch(kind="prefix", value=value[:-1])
        if value.endswith("*")
        else StringMatch(kind="template" if "{" in value else "exact", value=value)
        for value in values
    )


def _rule(number: int) -> Rule:
    methods = _texts("GET", "POST")
    operation = RequestMatch(methods=methods)
    match number % 5:
        case 0:
            operation = RequestMatch(methods=methods, paths=_texts(f"/api/{number}/{{*}}"))
        case 1:
            operation = RequestMatch(methods=methods, paths=_texts(f"/v{number}/*"))
        case 2:
            operation = RequestMatch(methods=methods, hosts=_texts(f"h{number}.example"))
        case 3:
            header = NamedMatch(name=("x-tenant",), values=_texts(f"t{number}"))
            return _conditioned(operation, RequestMatch(header=header))
        case _:
            claim = NamedMatch(name=("realm", "roles"), values=_texts(f"r{number}"))
            return _conditioned(operation, RequestMatch(claim=claim))
    source = L4Match(principals=_texts(f"cluster.local/ns/n{number % 100}/sa/a"))
    return Rule(sources=(source,), operations=(L4Match(request=operation),))


def _conditioned(operation: RequestMatch, condition: RequestMatch) -> Rule:
    return Rule(operations=(L4Match(request=operation),), conditions=(L4Match(request=condition),))


def _policy(number: int) -> AuthorizationPolicy:
    return AuthorizationPolicy(
        key=PolicyKey(f"shop/p{number:05}"),
        namespace="shop",
        name=f"p{number:05}",
        scope=PolicyScope.TARGET,
        action=PolicyAction.DENY if number % 2 == 0 else PolicyAction.ALLOW,
        rules=tuple(_rule(number * RULES + rule) for rule in range(RULES)),
        targets=(PolicyTarget(kind=TargetKind.GATEWAY, namespace="shop", name="wp"),),
    )


def main() -> None:
    """Measure and print."""
    policies = {policy.key: policy for policy in map(_policy, range(POLICIES))}
    snapshot = MeshSnapshot(revision=1, policies=policies)
    last = POLICIES * RULES - 5  # The template of the last ALLOW policy.
    address = IPv4Address("192.0.2.1")
    facts = RequestFacts(
        principal=SpiffeId(
            trust_domain="cluster.local", namespace=f"n{last % 100}", service_account="a"
        ),
        src=SocketAddress(address, 0),
        dst=SocketAddress(address, 80),
        service=ServiceKey("shop/api"),
        method="GET",
        path=f"/api/{last}/x?page=1",
        host="api.shop:80",
        headers={"x-tenant": "t0", "user-agent": "bench", "accept": "*/*", "x-request-id": "1"},
        claims=Claims(payload={"iss": "i", "sub": "s", "realm": {"roles": ["a", "b"]}}),
    )
    begin = time.perf_counter()
    index = RequestIndex.compile(snapshot, "shop/wp")
    verdict = index.evaluate(facts)
    compiled = time.perf_counter() - begin
    times = []
    for _ in range(DECISIONS):
        begin = time.perf_counter()
        index.evaluate(facts)
        times.append(time.perf_counter() - begin)
    p99 = statistics.quantiles(times, n=100)[98] * 1e6
    print(f"{POLICIES} policies of {RULES} rules: {verdict}")
    median = statistics.median(times) * 1e6
    print(f"compile {compiled:.2f} s, decision p50 {median:.1f} us, p99 {p99:.1f} us")


if __name__ == "__main__":
    main()
