"""Cases about backends, weights, references and conditions."""

from __future__ import annotations

from tests.unit.mesh.routing.conformance.model import (
    NAMESPACE,
    REFUSED,
    Ask,
    Case,
    Share,
    State,
    Want,
    route,
    services,
    to,
    v,
)

V1, V2 = to("echo-v1"), to("echo-v2")
OTHER = "gateway-conformance-web-backend"
WEB = (
    "---\napiVersion: v1\nkind: Service\n"
    f"metadata: {{name: web-backend, namespace: {OTHER}}}\n"
    "spec: {clusterIP: 10.96.8.1, ports: [{port: 8080}]}\n"
)
_TO_WEB = f"{{name: web-backend, namespace: {OTHER}, port: 8080}}"
_WEIGHTS = {"echo-v1": 70.0, "echo-v2": 30.0, "echo-v3": 0.0}


def _weighted(kind: str, port: int) -> str:
    backends = ", ".join(to(name, port, f", weight: {w:.0f}") for name, w in _WEIGHTS.items())
    return services() + route(f"  rules: [{{backendRefs: [{backends}]}}]\n", kind=kind)


def grant(
    name: str = "",
    namespace: str = NAMESPACE,
    group: str = "gateway.networking.k8s.io",
    kind: str = "Service",
    at: str = OTHER,
    route_kind: str = "HTTPRoute",
) -> str:
    target = f", name: {name}" if name else ""
    return (
        "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n"
        f"metadata: {{name: {'-'.join((name or 'any', namespace, group, kind.lower()))},"
        f" namespace: {at}}}\nspec:\n"
        f"  from: [{{group: {group}, kind: {route_kind}, namespace: {namespace}}}]\n"
        f"  to: [{{group: '', kind: {kind}{target}}}]\n"
    )


_CROSS = services() + WEB + route(f"  rules: [{{backendRefs: [{_TO_WEB}]}}]\n")
_REACHED = Want(backend=f"{OTHER}/web-backend")
_UNRESOLVED = "ResolvedRefs"


def _one(backend: str) -> str:
    return services() + route(f"  rules: [{{backendRefs: [{backend}]}}]\n")


def _failing(reason: str) -> tuple[State, ...]:
    return (
        State(type="Accepted", status=True, reason="Accepted"),
        State(type=_UNRESOLVED, status=False, reason=reason),
    )


def _mirror(percent: str) -> str:
    return f"{{type: RequestMirror, requestMirror: {{backendRef: {V2}, {percent}}}}}"


_PERCENT = services() + route(
    "  rules:\n"
    f"  - matches: [{{path: {{value: /20}}}}]\n    filters: [{_mirror('percent: 20')}]\n"
    f"    backendRefs: [{V1}]\n"
    f"  - matches: [{{path: {{value: /50}}}}]\n"
    f"    filters: [{_mirror('fraction: {numerator: 1, denominator: 2}')}]\n"
    f"    backendRefs: [{V1}]\n"
    f"  - matches: [{{path: {{value: /35}}}}]\n"
    f"    filters: [{_mirror('fraction: {numerator: 350, denominator: 1000}')}]\n"
    f"    backendRefs: [{V1}]\n"
)
_FILTERED = (
    ", weight: 1, filters: [{type: RequestHeaderModifier, requestHeaderModifier:"
    " {set: [{name: backend, value: %s}]}}]"
)
_GRPC_CALL = Ask(
    path="/s.E/Echo", method="POST", port=7070, headers=(("content-type", "application/grpc"),)
)

CASES = (
    Case(
        name="MeshHTTPRouteWeight",
        objects=_weighted("HTTPRoute", 80),
        shares=(Share(ask=Ask(), percent=_WEIGHTS),),
    ),
    Case(
        name="HTTPRouteWeight",
        objects=_weighted("HTTPRoute", 80),
        shares=(Share(ask=Ask(), percent=_WEIGHTS),),
    ),
    Case(
        name="MeshGRPCRouteWeight",
        objects=_weighted("GRPCRoute", 7070),
        shares=(Share(ask=_GRPC_CALL, percent=_WEIGHTS),),
    ),
    Case(
        name="GRPCRouteWeight",
        objects=_weighted("GRPCRoute", 7070),
        shares=(Share(ask=_GRPC_CALL, percent=_WEIGHTS),),
    ),
    Case(
        name="HTTPRouteRequestHeaderModifierBackendWeights",
        objects=services()
        + route(
            f"  rules: [{{backendRefs: [{to('echo-v1', more=_FILTERED % 'one')},"
            f" {to('echo-v2', more=_FILTERED.replace('weight: 1', 'weight: 0') % 'two')}]}}]\n"
        ),
        exchanges=((Ask(), Want(backend="echo-v1", sent={"backend": "one"})),),
    ),
    Case(
        name="HTTPRouteRequestPercentageMirror",
        objects=_PERCENT,
        # Three standard deviations of a binomial over 500: at most 6.7 percent points.
        shares=tuple(
            Share(
                ask=Ask(path=f"/{percent}"),
                percent={"echo-v2": percent},
                tolerance=6.7,
                of_mirrors=True,
            )
            for percent in (20, 50, 35)
        ),
    ),
    Case(
        name="HTTPRouteNoBackendRefs",
        objects=services()
        + route(
            "  rules:\n"
            "  - matches: [{path: {value: /empty}}]\n    backendRefs: []\n"
            "  - matches: [{path: {value: /omitted}}]\n"
        ),
        exchanges=((Ask(path="/empty"), REFUSED), (Ask(path="/omitted"), REFUSED)),
        states=(State(type=_UNRESOLVED, status=True, reason="ResolvedRefs"),),
    ),
    Case(
        name="HTTPRouteObservedGenerationBump",
        objects=services() + route(f"  rules: [{{backendRefs: [{V2}]}}]\n", generation=7),
        exchanges=((Ask(), v(2)),),
        states=tuple(
            State(type=kind, status=True, reason=kind, generation=7)
            for kind in ("Accepted", "ResolvedRefs")
        ),
    ),
    Case(
        name="HTTPRouteMultipleGateways",
        objects=services()
        + route(
            f"  rules: [{{backendRefs: [{V2}]}}]\n",
            parent="name: echo}, "
            f"{{group: '', kind: Service, namespace: {NAMESPACE}, name: echo-v1",
        ),
        exchanges=((Ask(), v(2)), (Ask(service="echo-v1"), v(2))),
    ),
    Case(
        name="HTTPRouteServiceTypes",
        objects=_one(V2),
        exchanges=((Ask(), v(2)),),
    ),
    Case(
        name="HTTPRouteCrossNamespace",
        objects=_CROSS,
        exchanges=((Ask(), _REACHED),),
        states=(State(type=_UNRESOLVED, status=True, reason="ResolvedRefs"),),
    ),
    Case(
        name="HTTPRouteInvalidCrossNamespaceBackendRef",
        objects=_CROSS,
        grants=True,
        exchanges=((Ask(), REFUSED),),
        states=_failing("RefNotPermitted"),
    ),
    Case(
        name="HTTPRouteReferenceGrant",
        objects=_CROSS + grant("web-backend"),
        grants=True,
        exchanges=((Ask(), _REACHED),),
        states=(State(type=_UNRESOLVED, status=True, reason="ResolvedRefs"),),
    ),
    Case(
        name="HTTPRouteInvalidReferenceGrant",
        objects=_CROSS
        + grant("other")
        + grant(namespace="elsewhere")
        + grant(group="not.the.group")
        + grant(kind="Secret")
        + grant("web-backend", at=NAMESPACE),
        grants=True,
        exchanges=((Ask(), REFUSED),),
        states=_failing("RefNotPermitted"),
    ),
    Case(
        name="HTTPRoutePartiallyInvalidViaInvalidReferenceGrant",
        objects=services()
        + WEB
        + grant("other")
        + route(
            f"  rules:\n  - matches: [{{path: {{value: /v2}}}}]\n    backendRefs: [{_TO_WEB}]\n"
            f"  - backendRefs: [{V1}]\n"
        ),
        grants=True,
        exchanges=((Ask(path="/v2"), REFUSED), (Ask(path="/"), v(1))),
        states=_failing("RefNotPermitted"),
    ),
    Case(
        name="HTTPRouteInvalidBackendRefUnknownKind",
        objects=_one("{group: unknown.example.org, kind: NonExistent, name: x}"),
        exchanges=((Ask(), REFUSED),),
        states=_failing("InvalidKind"),
    ),
    Case(
        name="HTTPRouteInvalidNonExistentBackendRef",
        objects=_one(to("nonexistent")),
        exchanges=((Ask(), REFUSED),),
        states=_failing("BackendNotFound"),
    ),
    Case(
        name="HTTPRouteInvalidParentRefNotMatchingSectionName",
        objects=services()
        + route(
            f"  rules: [{{backendRefs: [{V1}]}}]\n", parent="name: echo, sectionName: not-there"
        ),
        exchanges=((Ask(), Want(backend="echo")),),
        states=(State(type="Accepted", status=False, reason="NoMatchingParent"),),
    ),
    Case(
        name="HTTPRouteInvalidParentRefNotMatchingListenerPort",
        objects=services()
        + route(f"  rules: [{{backendRefs: [{V1}]}}]\n", parent="name: echo, port: 81"),
        exchanges=((Ask(), Want(backend="echo")),),
        states=(State(type="Accepted", status=False, reason="NoMatchingParent"),),
    ),
    Case(
        name="HTTPRouteInvalidParentRefSectionNameNotMatchingPort",
        objects=services()
        + route(
            f"  rules: [{{backendRefs: [{V1}]}}]\n",
            parent="name: echo, sectionName: http, port: 8080",
        ),
        exchanges=((Ask(), Want(backend="echo")),),
        states=(State(type="Accepted", status=False, reason="NoMatchingParent"),),
    ),
    Case(
        name="HTTPRouteListenerPortMatching",
        objects=services()
        + route(
            f"  rules: [{{backendRefs: [{V1}]}}]\n",
            parent="name: echo, sectionName: http-alt, port: 8080",
        ),
        exchanges=((Ask(port=8080), v(1)), (Ask(), Want(backend="echo"))),
        states=(State(type="Accepted", status=True, reason="Accepted"),),
    ),
)
