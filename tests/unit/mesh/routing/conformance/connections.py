"""Cases about connections that are no HTTP: TLSRoute and TCPRoute."""

from __future__ import annotations

from tests.unit.mesh.routing.conformance.model import (
    NAMESPACE,
    Case,
    Dial,
    DialShare,
    State,
    route,
    services,
    to,
)
from tests.unit.mesh.routing.conformance.references import OTHER, WEB, grant

_TO_WEB = f"{{name: web-backend, namespace: {OTHER}, port: 8080}}"


def _tls(backend: str, hostnames: str = "", **more: str) -> str:
    hosts = f"  hostnames: [{hostnames}]\n" if hostnames else ""
    spec = f"{hosts}  rules: [{{backendRefs: [{backend}]}}]\n"
    return route(spec, kind="TLSRoute", **{"parent": "name: echo, port: 443", **more})  # type: ignore[arg-type] # texts


def _tcp(backends: str, **more: str) -> str:
    spec = f"  rules: [{{backendRefs: [{backends}]}}]\n"
    return route(spec, kind="TCPRoute", **{"parent": "name: echo, port: 9090", **more})  # type: ignore[arg-type] # texts


def _dial(sni: str, port: int = 443) -> Dial:
    return Dial(port=port, sni=sni)


def _state(kind: str, type: str, reason: str, *, name: str = "mesh", status: bool = False) -> State:
    key = f"{kind}/{NAMESPACE}/{name}"
    return State(type=type, status=status, reason=reason, route=key)


def _to(version: int, port: int = 443) -> str:
    return to(f"echo-v{version}", port)


TLS_CASES = (
    Case(
        name="TLSRouteSimpleSameNamespace",
        objects=services() + _tls(_to(2), "abc.example.com"),
        dials=(
            (_dial("abc.example.com"), "echo-v2"),
            (_dial("abc.example.org"), ""),
            (Dial(port=443), ""),
        ),
        states=(_state("TLSRoute", "Accepted", "Accepted", status=True),),
    ),
    Case(
        name="TLSRouteHostnameIntersection",
        objects=services()
        + _tls(_to(1), "abc.example.com", name="exact")
        + _tls(_to(2), "'*.example.com'", name="wildcard")
        + _tls(_to(3), "'*.more.example.com'", name="longer"),
        dials=(
            (_dial("abc.example.com"), "echo-v1"),
            (_dial("ABC.example.com"), "echo-v1"),
            (_dial("other.example.com"), "echo-v2"),
            (_dial("a.other.example.com"), "echo-v2"),
            (_dial("a.more.example.com"), "echo-v3"),
            (_dial("example.com"), ""),
            (_dial("non.matching.com"), ""),
        ),
    ),
    Case(
        name="TLSRouteInvalidBackendRefNonexistent",
        objects=services() + _tls(to("nonexistent", 443)),
        dials=((_dial("abc.example.com"), ""),),
        states=(_state("TLSRoute", "ResolvedRefs", "BackendNotFound"),),
    ),
    Case(
        name="TLSRouteInvalidBackendRefUnknownKind",
        objects=services() + _tls("{group: unknown.example.org, kind: NonExistent, name: x}"),
        dials=((_dial("abc.example.com"), ""),),
        states=(_state("TLSRoute", "ResolvedRefs", "InvalidKind"),),
    ),
    Case(
        name="TLSRouteInvalidReferenceGrant",
        objects=services() + WEB + grant("other", route_kind="TLSRoute") + _tls(_TO_WEB),
        grants=True,
        dials=((_dial("abc.example.com"), ""),),
        states=(_state("TLSRoute", "ResolvedRefs", "RefNotPermitted"),),
    ),
    Case(
        name="TLSRouteInvalidNoMatchingListener",
        objects=services() + _tls(_to(2), parent="name: echo, sectionName: not-there"),
        dials=((_dial("abc.example.com"), "echo"),),
        states=(_state("TLSRoute", "Accepted", "NoMatchingParent"),),
    ),
)

TCP_CASES = (
    Case(
        name="TCPRouteInvalidBackendRefNonexistent",
        objects=services() + _tcp(to("nonexistent", 9090)),
        dials=((Dial(), ""),),
        states=(_state("TCPRoute", "ResolvedRefs", "BackendNotFound"),),
    ),
    Case(
        name="TCPRouteInvalidCrossNamespaceBackendRef",
        objects=services() + WEB + _tcp(_TO_WEB),
        grants=True,
        dials=((Dial(), ""),),
        states=(_state("TCPRoute", "ResolvedRefs", "RefNotPermitted"),),
    ),
    Case(
        name="TCPRouteReferenceGrant",
        objects=services() + WEB + grant("web-backend", route_kind="TCPRoute") + _tcp(_TO_WEB),
        grants=True,
        dials=((Dial(), f"{OTHER}/web-backend"),),
        states=(_state("TCPRoute", "ResolvedRefs", "ResolvedRefs", status=True),),
    ),
    Case(
        name="TCPRouteMultipleRoutesAttachment",
        objects=services()
        + _tcp(_to(2, 9090), name="newer", created="2024-02-01T00:00:00Z")
        + _tcp(_to(1, 9090), name="older"),
        dials=((Dial(), "echo-v1"),),
        states=tuple(
            _state("TCPRoute", "Accepted", "Accepted", name=name, status=True)
            for name in ("older", "newer")
        ),
    ),
    Case(
        name="TCPRouteParentRefAttachAll",
        objects=services() + _tcp(_to(3, 9090), parent="name: echo"),
        dials=tuple((Dial(port=port), "echo-v3") for port in (80, 8080, 9090)),
    ),
    Case(
        name="TCPRouteParentRefPortAndSectionName",
        objects=services()
        + _tcp(_to(1, 9090), name="port", parent="name: echo, port: 9090")
        + _tcp(_to(2, 9090), name="section", parent="name: echo, sectionName: http")
        + _tcp(_to(3, 9090), name="both", parent="name: echo, sectionName: http-alt, port: 8080"),
        dials=(
            (Dial(), "echo-v1"),
            (Dial(port=80), "echo-v2"),
            (Dial(port=8080), "echo-v3"),
        ),
    ),
    Case(
        name="TCPRouteWeightedRouting",
        objects=services()
        + _tcp(
            f"{to('echo-v1', 9090, ', weight: 70')}, {to('echo-v2', 9090, ', weight: 30')},"
            f" {to('echo-v3', 9090, ', weight: 0')}"
        ),
        dial_shares=(
            DialShare(dial=Dial(), percent={"echo-v1": 70.0, "echo-v2": 30.0, "echo-v3": 0.0}),
        ),
    ),
)

CASES = (*TLS_CASES, *TCP_CASES)
