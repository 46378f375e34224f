"""Where a TrafficPolicy holds, and which one wins."""

from __future__ import annotations

from mesh.model.policy import PolicyKey
from mesh.model.routing import RouteKey
from mesh.model.workload import ServiceKey, WorkloadUid
from mesh.routing.policies import PolicyReason, PolicyTable, gateway_place
from tests.unit.mesh.routing import build

BASE = """\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: alt, port: 81}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules: [{name: one}, {}]
"""
API, ROUTE = ServiceKey("shop/api"), RouteKey("HTTPRoute/shop/r")
ON_SERVICE = "{kind: Service, name: api}"
ON_PORT = "{kind: Service, name: api, sectionName: alt}"
ON_ROUTE = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}"
ON_RULE = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: one}"


def policy(name: str, target: str, parts: str, created: str = "2024-01-01T00:00:00Z") -> str:
    """A policy object."""
    return (
        "---\napiVersion: meshnode.io/v1alpha1\nkind: TrafficPolicy\n"
        f'metadata: {{name: {name}, namespace: shop, creationTimestamp: "{created}"}}\n'
        f"spec:\n  targetRefs: [{target}]\n  {parts}\n"
    )


def compile_table(*policies: str) -> PolicyTable:
    """Compile objects without a problem."""
    snapshot = build.read(BASE + "".join(policies))
    assert snapshot.problems == ()
    return PolicyTable.compile(snapshot)


def hedge(seconds: int) -> str:
    """A part that tells policies apart."""
    return f"hedging: {{after: {seconds}s}}"


def test_the_narrower_target_wins_part_by_part() -> None:
    table = compile_table(
        policy("a", ON_SERVICE, f"{hedge(1)}\n  limits: {{maxRequests: 7}}"),
        policy("b", ON_PORT, hedge(2)),
        policy("c", ON_ROUTE, hedge(3)),
        policy("d", ON_RULE, hedge(4)),
    )
    found = (
        table.of_service(API),
        table.of_service(API, "alt"),
        table.of_rule(ROUTE, "", API, "alt"),
        table.of_rule(ROUTE, "one", API, "alt"),
    )
    assert [item.hedging and item.hedging.after_s for item in found] == [1, 2, 3, 4]
    assert [item.limits and item.limits.max_requests for item in found] == [7] * 4
    assert found[3].sources == (("hedging", "shop/d"), ("limits", "shop/a"))


def test_the_older_policy_wins_on_one_target() -> None:
    table = compile_table(
        policy(
            "new", ON_SERVICE, f"{hedge(1)}\n  limits: {{maxRequests: 7}}", "2025-01-01T00:00:00Z"
        ),
        policy("old", ON_SERVICE, hedge(2)),
    )
    found = table.of_service(API)
    assert found.hedging is not None
    assert found.hedging.after_s == 2
    assert found.limits is not None
    (status,) = table.statuses[PolicyKey("shop/new")]
    assert status.reason is PolicyReason.CONFLICTED
    assert "hedging (shop/old)" in status.message
    (kept,) = table.statuses[PolicyKey("shop/old")]
    assert kept.reason is PolicyReason.ACCEPTED


ON_GATE = "{group: gateway.networking.k8s.io, kind: Gateway, name: gate}"
PODS = """\
---
apiVersion: meshnode.io/v1alpha1
kind: Workload
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {node: a, addresses: [10.1.0.1]}
"""


def selecting(name: str, labels: str, parts: str, created: str) -> str:
    """A policy of pods."""
    made = policy(name, ON_SERVICE, parts, created)
    return made.replace(f"targetRefs: [{ON_SERVICE}]", f"selector: {{matchLabels: {{{labels}}}}}")


def test_pods_are_selected_and_the_gateway_is_the_widest_place() -> None:
    years = [f"{year}-01-01T00:00:00Z" for year in (2020, 2021, 2022, 2023)]
    table = compile_table(
        PODS,
        selecting("new", "app: db", f"{hedge(3)}\n  limits: {{maxRequests: 3}}", years[2]),
        selecting("old", "", hedge(2), years[1]),
        selecting("other", "app: web", hedge(1), years[0]),
        policy("gate", ON_GATE, f"{hedge(4)}\n  bandwidth: {{request: 5}}", years[0]),
    )
    uid = WorkloadUid("workload/shop/db-0")
    found = table.resolve(((uid, ""), *gateway_place("shop/gate"))).policy
    assert dict(found.sources) == {
        "hedging": "shop/old",
        "limits": "shop/new",
        "bandwidth": "shop/gate",
    }
    assert table.of_workload(WorkloadUid("workload/shop/none")) is None
    service = table.resolve(((API, ""), *gateway_place("shop/gate"))).policy
    assert dict(service.sources) == {"hedging": "shop/gate", "bandwidth": "shop/gate"}
    assert table.resolve(((API, ""), *gateway_place(None))).policy.sources == ()
    (accepted,) = table.statuses[PolicyKey("shop/gate")]
    assert accepted.reason is PolicyReason.ACCEPTED
    assert table.statuses[PolicyKey("shop/old")] == ()


def test_targets_that_do_not_exist() -> None:
    table = compile_table(
        policy("a", "{kind: Service, name: none}", hedge(1)),
        policy("b", "{kind: Service, name: api, sectionName: none}", hedge(1)),
    )
    for name in ("a", "b"):
        (status,) = table.statuses[PolicyKey(f"shop/{name}")]
        assert status.reason is PolicyReason.TARGET_NOT_FOUND
    assert table.of_service(API).hedging is None
