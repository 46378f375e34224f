"""A route object with every field, and what is read of such text."""

from __future__ import annotations

from mesh.model.snapshot import MeshSnapshot
from mesh.sources.file_state import FileState, read_text
from mesh.sources.objects import ObjectSet
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
