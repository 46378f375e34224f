"""One raw object to one typed object.

Input: plain data as YAML or JSON gives it. Output: `SourceObject`, or `FieldError` with the path
of the field. Knows every kind; decides nothing about how objects fit together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec
from msgspec import inspect

from mesh.model.snapshot import SameNode
from mesh.sources.fields import (
    FieldError,
    FieldPath,
    Step,
    parse_address,
    parse_name,
    parse_namespace,
    parse_port,
    parse_trust_domain,
)
from mesh.sources.gateway import grpc_route, http_route, l4_route, reference_grant
from mesh.sources.gateway_schema import (
    GrantObject,
    GrpcRouteObject,
    HttpRouteObject,
    L4RouteObject,
)
from mesh.sources.objects import (
    Body,
    EndpointSliceObject,
    GatewayClassObject,
    GatewayObject,
    MeshConfigObject,
    NamespaceObject,
    PodObject,
    ServiceAccountObject,
    ServiceObject,
    SourceObject,
    WorkloadObject,
)
from mesh.sources.security import authorization_policy, peer_authentication
from mesh.sources.security_jwt import RequestAuthenticationObject, request_authentication
from mesh.sources.security_providers import read_providers
from mesh.sources.security_schema import AuthorizationPolicyObject, PeerAuthenticationObject
from mesh.sources.suggest import did_you_mean
from mesh.sources.traffic import traffic_policy
from mesh.sources.traffic_schema import TrafficPolicyObject

DEFAULT_NAMESPACE = "default"
_OURS = "meshnode.io/v1alpha1"
_GATEWAY = "gateway.networking.k8s.io"
_ISTIO = ("security.istio.io/v1", "security.istio.io/v1beta1")


@dataclass(frozen=True, slots=True)
class Kind:
    """How objects of a kind are read."""

    versions: tuple[str, ...]
    schema: type[msgspec.Struct]
    read: Callable[[object], Body]
    namespaced: bool = True


def _addresses(texts: Iterable[str], at: FieldPath, last: FieldPath = ()) -> None:
    for number, text in enumerate(texts):
        parse_address(text, (*at, number, *last))


def _pod(raw: object) -> Body:
    body = msgspec.convert(raw, PodObject)
    _addresses((item.ip for item in body.status.pod_ips), ("status", "podIPs"), ("ip",))
    if body.status.pod_ip:
        parse_address(body.status.pod_ip, ("status", "podIP"))
    return body


def _service(raw: object) -> Body:
    body = msgspec.convert(raw, ServiceObject)
    spec = body.spec
    _addresses((ip for ip in spec.cluster_ips if ip != "None"), ("spec", "clusterIPs"))
    if spec.cluster_ip not in ("", "None"):
        parse_address(spec.cluster_ip, ("spec", "clusterIP"))
    for number, port in enumerate(spec.ports):
        at: FieldPath = ("spec", "ports", number)
        parse_port(port.port, (*at, "port"))
        if isinstance(port.target_port, int) and port.target_port:
            parse_port(port.target_port, (*at, "targetPort"))
    return body


def _endpoint_slice(raw: object) -> Body:
    body = msgspec.convert(raw, EndpointSliceObject)
    if body.address_type in ("IPv4", "IPv6"):
        for number, endpoint in enumerate(body.endpoints):
            _addresses(endpoint.addresses, ("endpoints", number, "addresses"))
    for number, port in enumerate(body.ports):
        if port.port:
            parse_port(port.port, ("ports", number, "port"))
    return body


def _workload(raw: object) -> Body:
    body = msgspec.convert(raw, WorkloadObject)
    if not body.spec.addresses:
        raise FieldError(("spec", "addresses"), "a workload needs an address", at_key=True)
    _addresses(body.spec.addresses, ("spec", "addresses"))
    parse_name(body.spec.service_account, ("spec", "serviceAccount"))
    for number, port in enumerate(body.spec.ports):
        parse_port(port.port, ("spec", "ports", number, "port"))
    return body


def _mesh_config(raw: object) -> Body:
    body = msgspec.convert(raw, MeshConfigObject)
    spec = body.spec
    domains = (spec.trust_domain, *spec.trust_domain_aliases)
    for number, domain in enumerate(domains):
        at: FieldPath = ("spec", "trustDomainAliases", number - 1)
        if domain is not None:
            parse_trust_domain(domain, at if number else ("spec", "trustDomain"))
    if spec.root_namespace is not None:
        parse_namespace(spec.root_namespace, ("spec", "rootNamespace"))
    if spec.same_node is not None and spec.same_node not in tuple(SameNode):
        choices = " or ".join(repr(str(mode)) for mode in SameNode)
        raise FieldError(("spec", "sameNode"), f"{spec.same_node!r} is not {choices}")
    _addresses(spec.probe_sources, ("spec", "probeSources"))
    read_providers(spec.extension_providers, ("spec", "extensionProviders"))
    return body


def _gateway_versions(*versions: str) -> tuple[str, ...]:
    return tuple(f"{_GATEWAY}/{version}" for version in versions)


def _l4_route(raw: object) -> Body:
    return l4_route(msgspec.convert(raw, L4RouteObject))


KINDS: Mapping[str, Kind] = {
    "Namespace": Kind(
        ("v1",), NamespaceObject, lambda raw: msgspec.convert(raw, NamespaceObject), False
    ),
    "ServiceAccount": Kind(
        ("v1",), ServiceAccountObject, lambda raw: msgspec.convert(raw, ServiceAccountObject)
    ),
    "Pod": Kind(("v1",), PodObject, _pod),
    "Service": Kind(("v1",), ServiceObject, _service),
    "EndpointSlice": Kind(("discovery.k8s.io/v1",), EndpointSliceObject, _endpoint_slice),
    "Workload": Kind((_OURS,), WorkloadObject, _workload),
    "MeshConfig": Kind((_OURS,), MeshConfigObject, _mesh_config, False),
    "AuthorizationPolicy": Kind(
        (_OURS, *_ISTIO),
        AuthorizationPolicyObject,
        lambda raw: authorization_policy(msgspec.convert(raw, AuthorizationPolicyObject)),
    ),
    "PeerAuthentication": Kind(
        (_OURS, *_ISTIO),
        PeerAuthenticationObject,
        lambda raw: peer_authentication(msgspec.convert(raw, PeerAuthenticationObject)),
    ),
    "RequestAuthentication": Kind(
        (_OURS, *_ISTIO),
        RequestAuthenticationObject,
        lambda raw: request_authentication(msgspec.convert(raw, RequestAuthenticationObject)),
    ),
    "GatewayClass": Kind(
        _gateway_versions("v1", "v1beta1"),
        GatewayClassObject,
        lambda raw: msgspec.convert(raw, GatewayClassObject),
        False,
    ),
    "Gateway": Kind(
        _gateway_versions("v1", "v1beta1"),
        GatewayObject,
        lambda raw: msgspec.convert(raw, GatewayObject),
    ),
    "HTTPRoute": Kind(
        _gateway_versions("v1", "v1beta1"),
        HttpRouteObject,
        lambda raw: http_route(msgspec.convert(raw, HttpRouteObject)),
    ),
    "GRPCRoute": Kind(
        _gateway_versions("v1"),
        GrpcRouteObject,
        lambda raw: grpc_route(msgspec.convert(raw, GrpcRouteObject)),
    ),
    "TLSRoute": Kind(_gateway_versions("v1", "v1alpha3", "v1alpha2"), L4RouteObject, _l4_route),
    "TCPRoute": Kind(_gateway_versions("v1", "v1alpha2"), L4RouteObject, _l4_route),
    "ReferenceGrant": Kind(
        _gateway_versions("v1", "v1beta1"),
        GrantObject,
        lambda raw: reference_grant(msgspec.convert(raw, GrantObject)),
    ),
    "TrafficPolicy": Kind(
        (_OURS,),
        TrafficPolicyObject,
        lambda raw: traffic_policy(msgspec.convert(raw, TrafficPolicyObject)),
    ),
}
"""Every kind a source takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectName:
    """What an object calls itself, readable even where the rest of it is broken."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        path = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {path}" if self.name else self.kind


def name_of(raw: object) -> ObjectName | None:
    """Read kind, namespace and name; None where there is no kind to tell."""
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        return None
    kind, metadata = raw["kind"], raw.get("metadata")
    fields = metadata if isinstance(metadata, dict) else {}
    name, namespace = fields.get("name"), fields.get("namespace", DEFAULT_NAMESPACE)
    known = KINDS.get(kind)
    if not isinstance(namespace, str) or (known is not None and not known.namespaced):
        namespace = ""
    return ObjectName(kind=kind, namespace=namespace, name=name if isinstance(name, str) else "")


def decode(raw: object, where: str) -> SourceObject:
    """Decode one object; raise `FieldError` naming the field."""
    if not isinstance(raw, dict):
        raise FieldError((), "not an object: want apiVersion, kind, metadata")
    kind = _find_kind(raw)
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise FieldError(("metadata", "name"), "the object needs a name")
    name = parse_name(metadata["name"], ("metadata", "name"))
    namespace = ""
    if kind.namespaced:
        at: FieldPath = ("metadata", "namespace")
        namespace = parse_namespace(str(metadata.get("namespace", DEFAULT_NAMESPACE)), at)
        raw = {**raw, "metadata": {**metadata, "namespace": namespace}}
    else:
        parse_namespace(name, ("metadata", "name"))
    try:
        body = kind.read(raw)
    except msgspec.ValidationError as error:
        raise _translate(str(error), kind.schema) from error
    return SourceObject(
        kind=str(raw["kind"]), namespace=namespace, name=name, where=where, body=body
    )


def _find_kind(raw: Mapping[str, object]) -> Kind:
    name, version = raw.get("kind"), raw.get("apiVersion")
    if not isinstance(name, str):
        raise FieldError(("kind",), "the object needs a kind")
    kind = KINDS.get(name)
    if kind is None:
        hint = did_you_mean(name, KINDS) or f"; known are {', '.join(sorted(KINDS))}"
        raise FieldError(("kind",), f"unknown kind {name!r}{hint}")
    if version not in kind.versions:
        want = " or ".join(kind.versions)
        raise FieldError(("apiVersion",), f"{version!r} is not the apiVersion of {name}: {want}")
    return kind


_AT = re.compile(r" - at `(?:key(?: in)? )?(?:key` in `)?\$([^`]*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")


def _translate(text: str, schema: type[msgspec.Struct]) -> FieldError:
    """Turn msgspec's message into a path and a sentence."""
    found = _AT.search(text)
    path: list[Step] = []
    for name, number in _STEP.findall(found[1] if found else ""):
        if number == "...":
            break  # A value of a free mapping: msgspec does not say which.
        path.append(int(number) if number else name)
    message = text[: found.start()] if found else text
    if unknown := _UNKNOWN.fullmatch(message):
        hint = did_you_mean(unknown[1], _fields_at(schema, path))
        return FieldError((*path, unknown[1]), f"unknown field{hint}", at_key=True)
    if missing := _MISSING.fullmatch(message):
        return FieldError((*path, missing[1]), "this field is required", at_key=True)
    return FieldError(tuple(path), message[:1].lower() + message[1:].replace("`", "'"))


def _fields_at(schema: type[msgspec.Struct], path: Iterable[Step]) -> tuple[str, ...]:
    """Name the fields that the schema knows at a path."""
    info: inspect.Type = inspect.type_info(schema)
    for step in path:
        info = _descend(info, step)
    info = _unwrap(info)
    if isinstance(info, inspect.StructType):
        return tuple(field.encode_name for field in info.fields)
    return ()


def _unwrap(info: inspect.Type) -> inspect.Type:
    """Take the part of an optional type that is not None."""
    if isinstance(info, inspect.UnionType):
        return next((t for t in info.types if not isinstance(t, inspect.NoneType)), info)
    return info


def _descend(info: inspect.Type, step: Step) -> inspect.Type:
    info = _unwrap(info)
    if isinstance(info, inspect.StructType):
        known = {field.encode_name: field.type for field in info.fields}
        return known.get(str(step), inspect.AnyType())
    if isinstance(info, inspect.VarTupleType):
        return info.item_type
    return info.value_type if isinstance(info, inspect.DictType) else inspect.AnyType()
