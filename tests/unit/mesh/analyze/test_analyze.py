"""Coded findings about a whole configuration, and about one object before it is applied."""

from __future__ import annotations

import pytest
import yaml

from mesh.analyze import analyze, analyze_change, hint_of
from mesh.model.codes import Code
from mesh.model.snapshot import Severity
from mesh.sources.file_state import FileState, read_text
from mesh.sources.objects import ObjectSet

MESH = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {meshnode.io/dataplane: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: api}, ports: [{port: 80}]}
---
"""
WITH_WAYPOINT = MESH.replace(
    "metadata: {name: api, namespace: shop}",
    "metadata: {name: api, namespace: shop, labels: {meshnode.io/use-waypoint: wp}}",
)
WAYPOINT_POD = """\
apiVersion: v1
kind: Pod
metadata: {name: wp-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}
status: {podIP: 10.0.0.9, conditions: [{type: Ready, status: "STATE"}]}
---
"""
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules: [{backendRefs: [{name: api, port: 80}]}]
---
"""
POLICY = """\
apiVersion: meshnode.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: SPEC
---
"""
TRAFFIC = """\
apiVersion: meshnode.io/v1alpha1
kind: TrafficPolicy
metadata: {name: t, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: TARGET}], retryBudget: {percent: 20}}
---
"""
TARGETS = 'targetRefs: [{group: "", kind: Service, name: TARGET}]'


def objects(text: str) -> ObjectSet:
    state = read_text("f.yaml", text.encode(), FileState())
    return ObjectSet(objects=state.objects, problems=state.problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MESH, []),
        (WITH_WAYPOINT + WAYPOINT_POD.replace("STATE", "True") + ROUTE, []),
        (WITH_WAYPOINT, ["MN0501 Service shop/api"]),
        (WITH_WAYPOINT + WAYPOINT_POD.replace("STATE", "False"), ["MN0502 Service shop/api"]),
        (MESH + ROUTE, ["MN0306 HTTPRoute shop/r"]),
        (
            MESH + ROUTE.replace("Service, name: api", "Service, name: nil"),
            ["MN0304 HTTPRoute shop/r"],
        ),
        (
            MESH + ROUTE.replace("{name: api, port: 80}", "{name: nil, port: 80}"),
            ["MN0305 HTTPRoute shop/r", "MN0306 HTTPRoute shop/r"],
        ),
        (
            MESH + POLICY.replace("SPEC", "{selector: {matchLabels: {a: nil}}, rules: [{}]}"),
            ["MN0211 AuthorizationPolicy shop/p"],
        ),
        (MESH + POLICY.replace("SPEC", "{}"), ["MN0212 AuthorizationPolicy shop/p"]),
        (MESH + POLICY.replace("SPEC", "{rule: []}"), ["MN0001 AuthorizationPolicy shop/p"]),
        (MESH + TRAFFIC.replace("TARGET", "nil"), ["MN0401 TrafficPolicy shop/t"]),
        (MESH + TRAFFIC.replace("TARGET", "api"), ["MN0403 TrafficPolicy shop/t"]),
        (
            MESH + TRAFFIC.replace(TARGETS, "selector: {matchLabels: {app: api}}"),
            ["MN0403 TrafficPolicy shop/t"],
        ),
        (MESH.replace("selector: {app: api}", "selector: {app: x}"), ["MN0108 Service shop/api"]),
        ("kind: [", ["MN0002 "]),
    ],
)
def test_findings(text: str, expected: list[str]) -> None:
    assert sorted(f"{one.code} {one.subject}" for one in analyze(objects(text))) == expected


def test_a_finding_says_where_and_what_to_do_and_errors_come_first() -> None:
    found = analyze(objects(MESH + ROUTE + POLICY.replace("SPEC", "{rule: []}")))
    assert [one.severity for one in found] == [Severity.ERROR, Severity.WARNING]
    assert found[0].where == "f.yaml:25"
    assert found[1].where == "f.yaml:15"
    assert "meshnode waypoint apply" in found[1].hint


def test_every_code_has_a_hint_and_a_number_of_its_own() -> None:
    assert all(hint_of(code) for code in Code)
    assert len({code.value for code in Code}) == len(Code)


def test_a_change_is_judged_against_the_rest_and_tells_nothing_of_others() -> None:
    known = objects(MESH + POLICY.replace("SPEC", "{}"))
    [route] = yaml.safe_load_all(ROUTE.rstrip("-\n"))
    assert [one.code for one in analyze_change(known, route)] == [Code.ROUTE_WITHOUT_WAYPOINT]
    better = objects(WITH_WAYPOINT + WAYPOINT_POD.replace("STATE", "True"))
    assert analyze_change(better, route) == []
    route["spec"]["rules"] = "none"
    [found] = analyze_change(better, route)
    assert (found.code, found.severity) == (Code.UNREADABLE, Severity.ERROR)
    assert found.subject == "HTTPRoute shop/r"


def test_a_changed_object_takes_the_place_of_its_former_self() -> None:
    known = objects(MESH + POLICY.replace("SPEC", "{rules: [{}]}"))
    raw = {
        "apiVersion": "meshnode.io/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop", "labels": None},
        "spec": {},
    }
    assert [one.code for one in analyze_change(known, raw)] == [Code.DENIES_ALL]
