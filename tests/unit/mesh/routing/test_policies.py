"""Where a TrafficPolicy holds, and which one wins."""

from __future__ import annotations

from mesh.model.policy import PolicyKey
from mesh.model.routing import RouteKey
from mesh.model.workload import ServiceKey
from mesh.routing.policies import PolicyReason, PolicyTable
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


def test_targets_that_do_not_exist() -> None:
    table = compile_table(
        policy("a", "{kind: Service, name: none}", hedge(1)),
        policy("b", "{kind: Service, name: api, sectionName: none}", hedge(1)),
    )
    for name in ("a", "b"):
        (status,) = table.statuses[PolicyKey(f"shop/{name}")]
        assert status.reason is PolicyReason.TARGET_NOT_FOUND
    assert table.of_service(API).hedging is None
