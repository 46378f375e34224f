"""A small mesh as YAML files: a client, a server behind a waypoint, a route and policies."""

from __future__ import annotations

from pathlib import Path

SHOP = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {meshnode.io/dataplane: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {meshnode.io/use-waypoint: gate}}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - name: admin
    matches: [{path: {type: PathPrefix, value: /admin}, headers: [{name: role, value: boss}]}]
    backendRefs: [{name: web, port: 80}]
    timeouts: {request: 2s}
    retry: {attempts: 3, codes: [503]}
  - name: items
    matches: [{path: {type: PathPrefix, value: /items}, method: GET}]
    backendRefs: [{name: web, port: 80, weight: 1}]
---
apiVersion: meshnode.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/admin*"]}}]}]
---
apiVersion: meshnode.io/v1alpha1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: meshnode.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: client-only, namespace: shop}
spec:
  action: ALLOW
  rules: [{from: [{source: {namespaces: [shop]}}]}]
"""

POD = """
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: shop}}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{app: {app}{labels}}}
spec: {{nodeName: n1, serviceAccountName: {name}}}
status:
  phase: Running
  podIP: {ip}
  podIPs: [{{ip: {ip}}}]
  conditions: [{{type: Ready, status: "True"}}]
"""
GATE = ", gateway.networking.k8s.io/gateway-name: gate"


def shop_directory(path: Path) -> str:
    """Write the files; returns the value of `--source`."""
    path.mkdir(exist_ok=True)
    (path / "shop.yaml").write_text(SHOP)
    for name, app, ip, labels in (
        ("client", "client", "10.0.0.1", ""),
        ("web-v1", "web", "10.0.0.2", ""),
        ("gate", "gate", "10.0.0.3", GATE),
    ):
        text = POD.format(name=name, app=app, ip=ip, labels=labels)
        (path / f"{name}.yaml").write_text(text)
    return f"file:{path}"
