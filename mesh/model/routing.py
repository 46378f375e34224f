"""Routes of the Gateway API for meshes (GAMMA, GEP-1324), as typed values.

One type holds all four kinds: what differs is which matches a rule may have. Filters are a
record rather than a list, because every kind but the mirror may stand at most once and the order
in which they act is fixed (Gateway API HTTPRouteFilter).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

RouteKey = NewType("RouteKey", str)
"""`<kind>/<namespace>/<name>`."""

GrantKey = NewType("GrantKey", str)
"""`<namespace>/<name>` of a ReferenceGrant."""

GATEWAY_GROUP = "gateway.networking.k8s.io"


class RouteKind(StrEnum):
    """Kinds of routes, the one that wins on a shared port first (GEP-1294)."""

    GRPC = "GRPCRoute"
    HTTP = "HTTPRoute"
    TLS = "TLSRoute"
    TCP = "TCPRoute"


class PathMatchType(StrEnum):
    """HTTPPathMatch.type."""

    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


class ValueMatchType(StrEnum):
    """Type of a header, query or gRPC method match. A regular expression matches the whole."""

    EXACT = "Exact"
    REGEX = "RegularExpression"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMatch:
    """HTTPPathMatch. A prefix counts by path element: `/a` matches `/a` and `/a/b`, not `/ab`."""

    kind: PathMatchType = PathMatchType.PREFIX
    value: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueMatch:
    """A condition on a header (name in lower case) or on a query parameter (name as written)."""

    name: str
    value: str
    kind: ValueMatchType = ValueMatchType.EXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpMatch:
    """HTTPRouteMatch: all of it must hold. `method` None = any."""

    path: PathMatch = PathMatch()
    method: str | None = None
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcMatch:
    """GRPCRouteMatch: all of it must hold. Service or method None = any."""

    service: str | None = None
    method: str | None = None
    kind: ValueMatchType = ValueMatchType.EXACT
    headers: tuple[ValueMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderField:
    """One header; the name is in lower case."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderEdit:
    """HTTPHeaderFilter: `set` replaces all values, `add` appends one, `remove` drops all."""

    set: tuple[HeaderField, ...] = ()
    add: tuple[HeaderField, ...] = ()
    remove: tuple[str, ...] = ()


class PathRewriteType(StrEnum):
    """HTTPPathModifier.type."""

    FULL = "ReplaceFullPath"
    PREFIX = "ReplacePrefixMatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRewrite:
    """HTTPPathModifier."""

    kind: PathRewriteType
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """HTTPRequestRedirectFilter; None keeps the request's own."""

    scheme: str | None = None
    hostname: str | None = None
    path: PathRewrite | None = None
    port: int | None = None
    status: int = 302


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """HTTPURLRewriteFilter; None keeps the request's own."""

    hostname: str | None = None
    path: PathRewrite | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTarget:
    """What a backendRef or a mirror names. `port` is None only where the kind needs none."""

    name: str
    namespace: str
    port: int | None = None
    group: str = ""
    kind: str = "Service"

    @property
    def is_service(self) -> bool:
        """Whether it is a Service of the core group: the one kind there is."""
        return self.group == "" and self.kind == "Service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """HTTPRequestMirrorFilter: a copy for `numerator` of `denominator` requests."""

    target: BackendTarget
    numerator: int = 100
    denominator: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """HTTPCORSFilter. `max_age_s` is 5 where the object says nothing (Gateway API)."""

    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age_s: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFilters:
    """What a rule or a backendRef does to a request and its response."""

    request_headers: HeaderEdit | None = None
    response_headers: HeaderEdit | None = None
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    cors: Cors | None = None
    mirrors: tuple[Mirror, ...] = ()


NO_FILTERS = RouteFilters()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRef:
    """A share of the traffic: weight over the sum of the rule's weights."""

    target: BackendTarget
    weight: int = 1
    filters: RouteFilters = NO_FILTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """HTTPRouteTimeouts in seconds (GEP-1742); None = no limit (also written `0s`).

    `request_s` covers all tries and waits, `backend_request_s` one try.
    """

    request_s: float | None = None
    backend_request_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """HTTPRouteRetry (GEP-1731). A failed connection is retried whatever `codes` says.

    Attributes:
        attempts: retries after the first try.
        backoff_s: least wait before a retry; None leaves it to the data path.
    """

    codes: tuple[int, ...] = ()
    attempts: int = 1
    backoff_s: float | None = None


class SessionType(StrEnum):
    """Where the session travels (GEP-1619)."""

    COOKIE = "Cookie"
    HEADER = "Header"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPersistence:
    """SessionPersistence (GEP-1619).

    Attributes:
        name: of the cookie or header; empty = made from the route's name.
        permanent: the cookie outlives the browser, for `absolute_timeout_s`.
    """

    kind: SessionType = SessionType.COOKIE
    name: str = ""
    absolute_timeout_s: float | None = None
    idle_timeout_s: float | None = None
    permanent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleProblem:
    """Something in a rule that cannot be done here.

    Attributes:
        reason: the Accepted condition's reason (`UnsupportedValue`, `IncompatibleFilters`).
        field: where, dotted, as in the object.
        in_match: the rule cannot be matched, so it is dropped; otherwise it is matched and
            every request is answered 500, because a filter must never be skipped.
    """

    reason: str
    field: str
    message: str
    in_match: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRule:
    """One rule: any match leads to the backends. `matches` for HTTP, `methods` for gRPC.

    A TLS or TCP rule has neither and takes every connection.
    """

    name: str = ""
    matches: tuple[HttpMatch, ...] = ()
    methods: tuple[GrpcMatch, ...] = ()
    filters: RouteFilters = NO_FILTERS
    backends: tuple[BackendRef, ...] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None
    session: SessionPersistence | None = None
    problems: tuple[RuleProblem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRef:
    """What a route attaches to. In a mesh: a Service, and of it one port or all."""

    name: str
    namespace: str
    group: str = ""
    kind: str = "Service"
    section_name: str | None = None
    port: int | None = None

    @property
    def is_service(self) -> bool:
        """Whether it is a Service of the core group."""
        return self.group == "" and self.kind == "Service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route object.

    `hostnames` are kept for people; a mesh route is bound by its parents, not by hosts (GAMMA).
    `created` is RFC 3339 text: it orders equal matches, oldest first.
    """

    key: RouteKey
    kind: RouteKind
    namespace: str
    name: str
    parents: tuple[ParentRef, ...]
    rules: tuple[RouteRule, ...]
    hostnames: tuple[str, ...] = ()
    created: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFrom:
    """ReferenceGrant.spec.from[]."""

    group: str
    kind: str
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTo:
    """ReferenceGrant.spec.to[]; `name` None = every object of the kind."""

    group: str
    kind: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGrant:
    """Permission to refer into `namespace`: any `sources` item to any `targets` item."""

    key: GrantKey
    namespace: str
    sources: tuple[GrantFrom, ...]
    targets: tuple[GrantTo, ...]
