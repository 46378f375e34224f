"""What only all objects together show."""

from __future__ import annotations

from mesh.routing.problems import routing_problems
from tests.unit.mesh.routing import build

API = """\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: sound, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules: [{backendRefs: [{name: api, port: 80}]}]
"""
OTHERS = """\
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: nowhere}]
  rules: [{backendRefs: [{name: api, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: half, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules: [{backendRefs: [{name: api, port: 80}, {name: gone, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: beaten, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules: [{backendRefs: [{name: api, port: 80}]}]
---
apiVersion: meshnode.io/v1alpha1
kind: TrafficPolicy
metadata: {name: aimless, namespace: shop}
spec: {targetRefs: [{kind: Service, name: nowhere}], retryBudget: {percent: 20}}
"""


def test_each_object_that_is_not_in_force_is_named_with_its_reason() -> None:
    found = {problem.subject: problem for problem in routing_problems(build.read(API + OTHERS))}
    reasons = {
        "HTTPRoute shop/lost": "NoMatchingParent",
        "HTTPRoute shop/half": "BackendNotFound",
        "TCPRoute shop/beaten": "Conflicted",
        "TrafficPolicy shop/aimless": "TargetNotFound",
    }
    assert found.keys() == reasons.keys()
    for subject, reason in reasons.items():
        assert reason in found[subject].message
    assert "500" in found["HTTPRoute shop/half"].message


def test_sound_objects_have_none() -> None:
    assert routing_problems(build.read(API)) == ()
