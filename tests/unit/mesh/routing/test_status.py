"""Conditions of routes beyond the conformance table."""

from __future__ import annotations

from random import Random

import pytest

from mesh.model.routing import RouteKey, RouteKind, RouteRule
from mesh.model.snapshot import MeshSnapshot
from mesh.routing.plan import Answer, AnswerReason, make_plan
from mesh.routing.status import ParentStatus, route_statuses
from mesh.routing.table import RouteTable
from tests.unit.mesh.routing import build

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: alt, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80, appProtocol: redis}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop, generation: 4}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
"""
KEY = RouteKey("HTTPRoute/shop/r")
BAD_MATCH = "  - matches: [{path: {type: RegularExpression, value: '('}}]\n"
BAD_FILTER = "  - filters: [{type: ExtensionRef, extensionRef: {name: x}}]\n"
GOOD = "  - matches: [{path: {value: /good}}]\n    backendRefs: [{name: api, port: 80}]\n"


def of(rules: str) -> tuple[MeshSnapshot, ParentStatus]:
    """The status of the route towards its one parent."""
    snapshot = build.read(SERVICES + "  rules:\n" + rules)
    (status,) = route_statuses(snapshot)[KEY]
    return snapshot, status


def accepted(status: ParentStatus) -> tuple[bool, str]:
    """Status and reason of Accepted."""
    found = status.condition("Accepted")
    assert found is not None
    assert found.observed_generation in (0, 4)
    return found.status, found.reason


def test_a_route_in_force() -> None:
    _, status = of(GOOD)
    assert accepted(status) == (True, "Accepted")
    assert [item.type for item in status.conditions] == ["Accepted", "ResolvedRefs"]


def test_a_dropped_rule() -> None:
    snapshot, status = of(BAD_MATCH + GOOD)
    partial = status.condition("PartiallyInvalid")
    assert partial is not None
    assert partial.reason == "UnsupportedValue"
    assert partial.message.startswith("Dropped Rule: spec.rules[0].matches[0].path.value: '('")
    assert accepted(status) == (True, "Accepted")
    plan = make_plan(RouteTable.compile(snapshot), build.facts("/other"), Random(1))
    assert isinstance(plan, Answer)
    assert plan.head.status == 404


def test_a_filter_that_is_not_supported_is_never_skipped() -> None:
    snapshot, status = of(BAD_FILTER + GOOD)
    partial = status.condition("PartiallyInvalid")
    assert partial is not None
    assert partial.message.startswith("Fall Back")
    plan = make_plan(RouteTable.compile(snapshot), build.facts("/x"), Random(1))
    assert isinstance(plan, Answer)
    assert (plan.head.status, plan.reason) == (500, AnswerReason.UNUSABLE_FILTER)


def test_a_route_without_a_usable_rule() -> None:
    _, status = of(BAD_MATCH)
    assert accepted(status) == (False, "UnsupportedValue")
    assert status.condition("PartiallyInvalid") is None


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("{name: none, port: 80}", "BackendNotFound"),
        ("{name: api, port: 99}", "BackendNotFound"),
        ("{name: db, port: 80}", "UnsupportedProtocol"),
        ("{group: x.io, kind: Bucket, name: b}", "InvalidKind"),
    ],
)
def test_backends_that_do_not_resolve(backend: str, reason: str) -> None:
    _, status = of(f"  - backendRefs: [{backend}]\n")
    resolved = status.condition("ResolvedRefs")
    assert resolved is not None
    assert (resolved.status, resolved.reason) == (False, reason)


def test_a_mirror_that_does_not_resolve() -> None:
    mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: none, port: 80}}}"
    _, status = of(f"  - filters: [{mirror}]\n    backendRefs: [{{name: api, port: 80}}]\n")
    resolved = status.condition("ResolvedRefs")
    assert resolved is not None
    assert resolved.reason == "BackendNotFound"


def test_another_kind_on_the_same_port() -> None:
    http = build.route("h", [build.rule()])
    grpc = build.route("g", [RouteRule()], kind=RouteKind.GRPC, port=80)
    both = build.snapshot([build.service("api", 80, 81)], [http, grpc])
    statuses = route_statuses(both)
    (partly,), (winner,) = statuses[http.key], statuses[grpc.key]
    assert accepted(winner) == (True, "Accepted")
    assert accepted(partly) == (True, "Accepted")
    single = build.snapshot([build.service("api", 80)], [http, grpc])
    (loser,) = route_statuses(single)[http.key]
    assert accepted(loser) == (False, "Conflicted")


def test_a_parent_that_does_not_exist() -> None:
    lost = build.snapshot([], [build.route("r", [build.rule()])])
    (status,) = route_statuses(lost)[KEY]
    assert accepted(status) == (False, "NoMatchingParent")


def test_a_gateway_is_another_controllers_parent() -> None:
    text = SERVICES.replace(
        '[{group: "", kind: Service, name: api}]',
        "[{name: gw}, {group: '', kind: Service, name: api}]",
    )
    (status,) = route_statuses(build.read(text))[KEY]
    assert status.parent.name == "api"


def test_a_route_without_a_service_is_said_to_do_nothing() -> None:
    text = SERVICES.replace('group: "", kind: Service, name: api', "name: gw")
    snapshot = build.read(text)
    assert route_statuses(snapshot)[KEY] == ()
    (problem,) = snapshot.problems
    assert "the mesh does nothing with this route" in problem.message
