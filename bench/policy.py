"""How long a decision takes with very many policies: `python -m bench.policy`.

10,000 policies of 10 rules each on one workload, ALLOW and DENY mixed, every rule with other
principals, namespaces, networks or ports. The last ALLOW rule is the one that matches. Prints
the compile time and the median and 99th percentile of a decision.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network

from mesh.model.address import SocketAddress
from mesh.model.identity import SpiffeId
from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    PolicyAction,
    PolicyKey,
    PolicyScope,
    Rule,
    StringMatch,
)
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import ConnectionFacts
from mesh.model.workload import Workload, WorkloadUid
from mesh.policy.engine import PolicyIndex

POLICIES = 10_000
RULES = 10
DECISIONS = 20_000


def _source(number: int) -> L4Match:
    exact = StringMatch(kind="exact", value=f"cluster.local/ns/n{number}/sa/a")
    match number % 4:
        case 0:
            return L4Match(principals=(exact,))
        case 1:
            return L4Match(namespaces=(StringMatch(kind="exact", value=f"n{number}"),))
        case 2:
            prefix = StringMatch(kind="prefix", value=f"cluster.local/ns/n{number}/")
            return L4Match(principals=(prefix,))
        case _:
            return L4Match(src_ips=(ip_network((0x0A000000 + number * 16, 28)),))


def _policy(number: int) -> AuthorizationPolicy:
    operation = L4Match(dst_ports=frozenset({80, 443}))
    return AuthorizationPolicy(
        key=PolicyKey(f"shop/p{number:05}"),
        namespace="shop",
        name=f"p{number:05}",
        scope=PolicyScope.NAMESPACE,
        action=PolicyAction.DENY if number % 2 == 0 else PolicyAction.ALLOW,
        rules=tuple(
            Rule(sources=(_source(number * RULES + rule),), operations=(operation,))
            for rule in range(RULES)
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTimes:
    """What was measured; `decisions_us` holds one value per decision."""

    verdict: str
    compile_s: float
    decisions_us: list[float]

    @property
    def p50_us(self) -> float:
        return statistics.median(self.decisions_us)

    @property
    def p99_us(self) -> float:
        return statistics.quantiles(self.decisions_us, n=100)[98]


def measure(count: int = POLICIES) -> PolicyTimes:
    """Compile `count` policies, an even number, then decide about the one that matches last."""
    address = IPv4Address("192.0.2.1")
    dst = Workload(
        uid=WorkloadUid("pod/shop/api"),
        name="api",
        namespace="shop",
        service_account="api",
        trust_domain="cluster.local",
        node="n1",
        addresses=(address,),
        enrolled=True,
    )
    policies = {policy.key: policy for policy in map(_policy, range(count))}
    snapshot = MeshSnapshot(revision=1, workloads={dst.uid: dst}, policies=policies)
    last = count * RULES - 6  # An exact principal or a prefix of the last ALLOW policy.
    peer = SpiffeId(trust_domain="cluster.local", namespace=f"n{last}", service_account="a")
    facts = ConnectionFacts(
        principal=peer, src=SocketAddress(address, 0), dst=SocketAddress(address, 443)
    )
    begin = time.perf_counter()
    index = PolicyIndex.compile(snapshot)
    verdict = index.evaluate(dst, facts)
    compiled = time.perf_counter() - begin
    times = []
    for _ in range(DECISIONS):
        begin = time.perf_counter()
        index.evaluate(dst, facts)
        times.append((time.perf_counter() - begin) * 1e6)
    return PolicyTimes(verdict=str(verdict), compile_s=compiled, decisions_us=times)


def main() -> None:
    """Measure and print."""
    found = measure()
    print(f"{POLICIES} policies of {RULES} rules: {found.verdict}")
    print(f"compile {found.compile_s:.2f} s, decision p50 {found.p50_us:.1f} us, ", end="")
    print(f"p99 {found.p99_us:.1f} us")


if __name__ == "__main__":
    main()
