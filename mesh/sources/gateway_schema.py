"""Schemas of the Gateway API's route objects, field by field as its reference (v1.6 line).

Unknown fields are refused: a route that silently ignores half of its text is worse than none.
Enumerations that the standard may extend stay text here, so that an unknown value becomes a
condition of the route (Accepted=False, UnsupportedValue) instead of an unreadable object.
"""

from __future__ import annotations

import msgspec

from mesh.model.routing import GATEWAY_GROUP
from mesh.sources.objects import Metadata, Strict


class ParentReference(Strict, frozen=True, kw_only=True):
    """spec.parentRefs[]."""

    name: str
    group: str = GATEWAY_GROUP
    kind: str = "Gateway"
    namespace: str = ""
    section_name: str | None = None
    port: int | None = None


class PathMatchSpec(Strict, frozen=True, kw_only=True):
    """matches[].path."""

    type: str = "PathPrefix"
    value: str = "/"


class ValueMatchSpec(Strict, frozen=True, kw_only=True):
    """matches[].headers[] and matches[].queryParams[]."""

    name: str
    value: str
    type: str = "Exact"


class HttpMatchSpec(Strict, frozen=True, kw_only=True):
    """HTTPRoute rules[].matches[]."""

    path: PathMatchSpec = PathMatchSpec()
    headers: tuple[ValueMatchSpec, ...] = ()
    query_params: tuple[ValueMatchSpec, ...] = ()
    method: str | None = None


class GrpcMethodSpec(Strict, frozen=True, kw_only=True):
    """GRPCRoute matches[].method."""

    type: str = "Exact"
    service: str | None = None
    method: str | None = None


class GrpcMatchSpec(Strict, frozen=True, kw_only=True):
    """GRPCRoute rules[].matches[]."""

    method: GrpcMethodSpec | None = None
    headers: tuple[ValueMatchSpec, ...] = ()


class HeaderSpec(Strict, frozen=True, kw_only=True):
    """One header of a modifier."""

    name: str
    value: str


class HeaderFilterSpec(Strict, frozen=True, kw_only=True):
    """requestHeaderModifier and responseHeaderModifier."""

    set: tuple[HeaderSpec, ...] = ()
    add: tuple[HeaderSpec, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifierSpec(Strict, frozen=True, kw_only=True):
    """path of a redirect or a rewrite."""

    type: str
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RedirectSpec(Strict, frozen=True, kw_only=True):
    """requestRedirect."""

    scheme: str | None = None
    hostname: str | None = None
    path: PathModifierSpec | None = None
    port: int | None = None
    status_code: int = 302


class RewriteSpec(Strict, frozen=True, kw_only=True):
    """urlRewrite."""

    hostname: str | None = None
    path: PathModifierSpec | None = None


class BackendObjectSpec(Strict, frozen=True, kw_only=True):
    """BackendObjectReference."""

    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    port: int | None = None


class FractionSpec(Strict, frozen=True, kw_only=True):
    """requestMirror.fraction."""

    numerator: int
    denominator: int = 100


class MirrorSpec(Strict, frozen=True, kw_only=True):
    """requestMirror."""

    backend_ref: BackendObjectSpec
    percent: int | None = None
    fraction: FractionSpec | None = None


class CorsSpec(Strict, frozen=True, kw_only=True):
    """cors."""

    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: int = 5


class FilterSpec(Strict, frozen=True, kw_only=True):
    """filters[]: `type` names the one field that must be set."""

    type: str
    request_header_modifier: HeaderFilterSpec | None = None
    response_header_modifier: HeaderFilterSpec | None = None
    request_redirect: RedirectSpec | None = None
    url_rewrite: RewriteSpec | None = None
    request_mirror: MirrorSpec | None = None
    cors: CorsSpec | None = None
    extension_ref: object = None
    external_auth: object = None


class BackendRefSpec(Strict, frozen=True, kw_only=True):
    """rules[].backendRefs[]."""

    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    port: int | None = None
    weight: int = 1
    filters: tuple[FilterSpec, ...] = ()


class TimeoutsSpec(Strict, frozen=True, kw_only=True):
    """rules[].timeouts."""

    request: str | None = None
    backend_request: str | None = None


class RetrySpec(Strict, frozen=True, kw_only=True):
    """rules[].retry."""

    codes: tuple[int, ...] = ()
    attempts: int = 1
    backoff: str | None = None


class CookieSpec(Strict, frozen=True, kw_only=True):
    """sessionPersistence.cookieConfig."""

    lifetime_type: str = "Session"


class SessionSpec(Strict, frozen=True, kw_only=True):
    """rules[].sessionPersistence."""

    type: str = "Cookie"
    session_name: str = ""
    absolute_timeout: str | None = None
    idle_timeout: str | None = None
    cookie_config: CookieSpec = CookieSpec()


class HttpRuleSpec(Strict, frozen=True, kw_only=True):
    """HTTPRoute spec.rules[]."""

    name: str = ""
    matches: tuple[HttpMatchSpec, ...] = (HttpMatchSpec(),)
    filters: tuple[FilterSpec, ...] = ()
    backend_refs: tuple[BackendRefSpec, ...] = ()
    timeouts: TimeoutsSpec = TimeoutsSpec()
    retry: RetrySpec | None = None
    session_persistence: SessionSpec | None = None


class GrpcRuleSpec(Strict, frozen=True, kw_only=True):
    """GRPCRoute spec.rules[]."""

    name: str = ""
    matches: tuple[GrpcMatchSpec, ...] = (GrpcMatchSpec(),)
    filters: tuple[FilterSpec, ...] = ()
    backend_refs: tuple[BackendRefSpec, ...] = ()
    session_persistence: SessionSpec | None = None


class L4RuleSpec(Strict, frozen=True, kw_only=True):
    """TLSRoute and TCPRoute spec.rules[]."""

    name: str = ""
    backend_refs: tuple[BackendRefSpec, ...] = ()


class RouteSpec(Strict, frozen=True, kw_only=True):
    """What the spec of every route has."""

    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    use_default_gateways: str | None = None


class HttpRouteSpec(RouteSpec, frozen=True, kw_only=True):
    """HTTPRoute.spec."""

    rules: tuple[HttpRuleSpec, ...] = (HttpRuleSpec(),)


class GrpcRouteSpec(RouteSpec, frozen=True, kw_only=True):
    """GRPCRoute.spec."""

    rules: tuple[GrpcRuleSpec, ...] = (GrpcRuleSpec(),)


class L4RouteSpec(RouteSpec, frozen=True, kw_only=True):
    """TLSRoute.spec and TCPRoute.spec."""

    rules: tuple[L4RuleSpec, ...]


class GatewayObject(Strict, frozen=True, kw_only=True):
    """What every object of the group has."""

    api_version: str
    kind: str
    metadata: Metadata
    status: object = None


class HttpRouteObject(GatewayObject, frozen=True, kw_only=True):
    """gateway.networking.k8s.io HTTPRoute."""

    spec: HttpRouteSpec


class GrpcRouteObject(GatewayObject, frozen=True, kw_only=True):
    """gateway.networking.k8s.io GRPCRoute."""

    spec: GrpcRouteSpec


class L4RouteObject(GatewayObject, frozen=True, kw_only=True):
    """gateway.networking.k8s.io TLSRoute and TCPRoute."""

    spec: L4RouteSpec


class GrantFromSpec(Strict, frozen=True, kw_only=True):
    """ReferenceGrant spec.from[]."""

    group: str
    kind: str
    namespace: str


class GrantToSpec(Strict, frozen=True, kw_only=True):
    """ReferenceGrant spec.to[]."""

    group: str
    kind: str
    name: str | None = None


class GrantSpec(Strict, frozen=True, kw_only=True):
    """ReferenceGrant.spec."""

    from_: tuple[GrantFromSpec, ...] = msgspec.field(name="from")
    to: tuple[GrantToSpec, ...]


class GrantObject(GatewayObject, frozen=True, kw_only=True):
    """gateway.networking.k8s.io ReferenceGrant."""

    spec: GrantSpec
