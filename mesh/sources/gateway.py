"""Route objects of the Gateway API to `mesh.model.routing`.

What the standard's own validation refuses is a `FieldError` here; what it accepts but this mesh
cannot do becomes a `RuleProblem`, from which `mesh.routing.status` makes conditions.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.errors import ConfigError
from mesh.model.routing import (
    BackendRef,
    GrantFrom,
    GrantKey,
    GrantTo,
    GrpcMatch,
    HttpMatch,
    ParentRef,
    PathMatch,
    PathMatchType,
    PathRewriteType,
    ReferenceGrant,
    Route,
    RouteFilters,
    RouteKey,
    RouteKind,
    RouteRule,
    RuleProblem,
    ValueMatch,
    ValueMatchType,
)
from mesh.routing.regex import compile_pattern
from mesh.sources.fields import FieldError, FieldPath, format_path, parse_namespace, parse_port
from mesh.sources.gateway_filters import (
    GRPC_TYPES,
    HTTP_TYPES,
    UNSUPPORTED,
    backend_target,
    read_filters,
)
from mesh.sources.gateway_schema import (
    BackendRefSpec,
    GrantObject,
    GrpcMatchSpec,
    GrpcRouteObject,
    GrpcRuleSpec,
    HttpMatchSpec,
    HttpRouteObject,
    HttpRuleSpec,
    L4RouteObject,
    L4RuleSpec,
    ParentReference,
    PathMatchSpec,
    ValueMatchSpec,
)
from mesh.sources.gateway_timing import read_retry, read_session, read_timeouts
from mesh.sources.http_fields import (
    check_count,
    parse_between,
    parse_header_name,
    parse_path,
    parse_wildcard_hostname,
)

# The Gateway API's limits (HTTPRouteSpec, HTTPRouteRule, CommonRouteSpec).
MAX_RULES, MAX_MATCHES, MAX_ALL_MATCHES, MAX_BACKENDS, MAX_PARENTS = 16, 64, 128, 16, 32
_MAX_CONDITIONS = 16
_MAX_WEIGHT = 1_000_000
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")


def http_route(body: HttpRouteObject) -> Route:
    """Turn an HTTPRoute into the model's value; raise `FieldError`."""
    specs = body.spec.rules
    _check_sizes([rule.matches for rule in specs])
    namespace = body.metadata.namespace
    rules = [_http_rule(rule, namespace, _at_rule(n)) for n, rule in enumerate(specs)]
    return _route(body, RouteKind.HTTP, rules)


def grpc_route(body: GrpcRouteObject) -> Route:
    """Turn a GRPCRoute into the model's value; raise `FieldError`."""
    specs = body.spec.rules
    _check_sizes([rule.matches for rule in specs])
    namespace = body.metadata.namespace
    rules = [_grpc_rule(rule, namespace, _at_rule(n)) for n, rule in enumerate(specs)]
    return _route(body, RouteKind.GRPC, rules)


def l4_route(body: L4RouteObject) -> Route:
    """Turn a TLSRoute or TCPRoute into the model's value; raise `FieldError`."""
    specs, namespace = body.spec.rules, body.metadata.namespace
    check_count(len(specs), MAX_RULES, ("spec", "rules"))
    if not specs:
        raise FieldError(("spec", "rules"), "the route needs a rule", at_key=True)
    kind = RouteKind(body.kind)
    if kind is RouteKind.TCP and body.spec.hostnames:
        raise FieldError(("spec", "hostnames"), "unknown field", at_key=True)
    rules = [_l4_rule(rule, namespace, _at_rule(n)) for n, rule in enumerate(specs)]
    return _route(body, kind, rules)


def reference_grant(body: GrantObject) -> ReferenceGrant:
    """Turn a ReferenceGrant into the model's value; raise `FieldError`."""
    meta, spec = body.metadata, body.spec
    for name, items in (("from", spec.from_), ("to", spec.to)):
        check_count(len(items), 16, ("spec", name))
        if not items:
            raise FieldError(("spec", name), "the list must not be empty", at_key=True)
    return ReferenceGrant(
        key=GrantKey(f"{meta.namespace}/{meta.name}"),
        namespace=meta.namespace,
        sources=tuple(
            GrantFrom(group=item.group, kind=item.kind, namespace=item.namespace)
            for item in spec.from_
        ),
        targets=tuple(
            GrantTo(group=item.group, kind=item.kind, name=item.name or None) for item in spec.to
        ),
    )


def _at_rule(number: int) -> FieldPath:
    return ("spec", "rules", number)


def _route(
    body: HttpRouteObject | GrpcRouteObject | L4RouteObject,
    kind: RouteKind,
    rules: Sequence[RouteRule],
) -> Route:
    meta, spec = body.metadata, body.spec
    check_count(len(spec.parent_refs), MAX_PARENTS, ("spec", "parentRefs"))
    names = [rule.name for rule in rules if rule.name]
    for number, rule in enumerate(rules):
        if names.count(rule.name) > 1:
            raise FieldError((*_at_rule(number), "name"), f"rule name {rule.name!r} is not unique")
    return Route(
        key=RouteKey(f"{kind}/{meta.namespace}/{meta.name}"),
        kind=kind,
        namespace=meta.namespace,
        name=meta.name,
        parents=tuple(
            _parent(ref, meta.namespace, ("spec", "parentRefs", number))
            for number, ref in enumerate(spec.parent_refs)
        ),
        rules=tuple(rules),
        hostnames=tuple(
            parse_wildcard_hostname(host, ("spec", "hostnames", number))
            for number, host in enumerate(spec.hostnames)
        ),
        created=meta.creation_timestamp,
        generation=meta.generation,
    )


def _parent(ref: ParentReference, namespace: str, at: FieldPath) -> ParentRef:
    own = parse_namespace(ref.namespace, (*at, "namespace")) if ref.namespace else namespace
    return ParentRef(
        name=ref.name,
        namespace=own,
        group="" if ref.group == "core" else ref.group,
        kind=ref.kind,
        section_name=ref.section_name,
        port=None if ref.port is None else parse_port(ref.port, (*at, "port")),
    )


def _check_sizes(matches: Sequence[Sequence[object]]) -> None:
    check_count(len(matches), MAX_RULES, ("spec", "rules"))
    for number, items in enumerate(matches):
        check_count(len(items), MAX_MATCHES, (*_at_rule(number), "matches"))
    check_count(sum(map(len, matches)), MAX_ALL_MATCHES, ("spec", "rules"))


def _http_rule(spec: HttpRuleSpec, namespace: str, at: FieldPath) -> RouteRule:
    problems: list[RuleProblem] = []
    filters = read_filters(spec.filters, namespace, (*at, "filters"), HTTP_TYPES, problems)
    matches = tuple(
        _http_match(item, (*at, "matches", number), problems)
        for number, item in enumerate(spec.matches or (HttpMatchSpec(),))
    )
    backends = _backends(spec.backend_refs, namespace, at, HTTP_TYPES, problems)
    if filters.redirect and backends:
        message = "a rule that redirects has no backends"
        raise FieldError((*at, "backendRefs"), message, at_key=True)
    _check_prefix_rewrites(matches, (filters, *(ref.filters for ref in backends)), at)
    return RouteRule(
        name=spec.name,
        matches=matches,
        filters=filters,
        backends=backends,
        timeouts=read_timeouts(spec.timeouts, (*at, "timeouts")),
        retry=read_retry(spec.retry, (*at, "retry")),
        session=read_session(spec.session_persistence, (*at, "sessionPersistence")),
        problems=tuple(problems),
    )


def _grpc_rule(spec: GrpcRuleSpec, namespace: str, at: FieldPath) -> RouteRule:
    problems: list[RuleProblem] = []
    return RouteRule(
        name=spec.name,
        methods=tuple(
            _grpc_match(item, (*at, "matches", number), problems)
            for number, item in enumerate(spec.matches or (GrpcMatchSpec(),))
        ),
        filters=read_filters(spec.filters, namespace, (*at, "filters"), GRPC_TYPES, problems),
        backends=_backends(spec.backend_refs, namespace, at, GRPC_TYPES, problems),
        session=read_session(spec.session_persistence, (*at, "sessionPersistence")),
        problems=tuple(problems),
    )


def _l4_rule(spec: L4RuleSpec, namespace: str, at: FieldPath) -> RouteRule:
    if not spec.backend_refs:
        raise FieldError((*at, "backendRefs"), "the rule needs a backend", at_key=True)
    problems: list[RuleProblem] = []
    backends = _backends(spec.backend_refs, namespace, at, (), problems)
    return RouteRule(name=spec.name, backends=backends, problems=tuple(problems))


def _check_prefix_rewrites(
    matches: Sequence[HttpMatch], filters: Sequence[RouteFilters], at: FieldPath
) -> None:
    rewrites = [item.path for found in filters for item in (found.redirect, found.rewrite) if item]
    if not any(path and path.kind is PathRewriteType.PREFIX for path in rewrites):
        return
    if len(matches) != 1 or matches[0].path.kind is not PathMatchType.PREFIX:
        message = "ReplacePrefixMatch needs exactly one match, of type PathPrefix"
        raise FieldError((*at, "matches"), message, at_key=True)


def _http_match(spec: HttpMatchSpec, at: FieldPath, problems: list[RuleProblem]) -> HttpMatch:
    method = spec.method
    if method is not None and method not in _METHODS:
        raise FieldError((*at, "method"), f"{method!r} is not one of {', '.join(_METHODS)}")
    return HttpMatch(
        path=_path_match(spec.path, (*at, "path"), problems),
        method=method,
        headers=_headers(spec.headers, (*at, "headers"), problems),
        query=_conditions(spec.query_params, (*at, "queryParams"), problems),
    )


def _path_match(spec: PathMatchSpec, at: FieldPath, problems: list[RuleProblem]) -> PathMatch:
    if spec.type not in tuple(PathMatchType):
        _unsupported(problems, (*at, "type"), f"path matches of type {spec.type!r}")
        return PathMatch()
    kind = PathMatchType(spec.type)
    if kind is PathMatchType.REGEX:
        _check_pattern(spec.value, (*at, "value"), problems)
    else:
        parse_path(spec.value, (*at, "value"))
    return PathMatch(kind=kind, value=spec.value)


def _grpc_match(spec: GrpcMatchSpec, at: FieldPath, problems: list[RuleProblem]) -> GrpcMatch:
    headers = _headers(spec.headers, (*at, "headers"), problems)
    method, own = spec.method, (*at, "method")
    if method is None:
        return GrpcMatch(headers=headers)
    if not method.service and not method.method:
        raise FieldError(own, "a method match needs a service, a method or both", at_key=True)
    if method.type not in tuple(ValueMatchType):
        _unsupported(problems, (*own, "type"), f"method matches of type {method.type!r}")
        return GrpcMatch(headers=headers)
    kind = ValueMatchType(method.type)
    for name, text in (("service", method.service), ("method", method.method)):
        if kind is ValueMatchType.REGEX and text:
            _check_pattern(text, (*own, name), problems)
        elif text and ("/" in text or len(text) > 1024):
            raise FieldError((*own, name), f"{text!r} is not the name of a gRPC {name}")
    return GrpcMatch(
        service=method.service or None, method=method.method or None, kind=kind, headers=headers
    )


def _headers(
    specs: Sequence[ValueMatchSpec], at: FieldPath, problems: list[RuleProblem]
) -> tuple[ValueMatch, ...]:
    """Read header conditions: names without case, of equal names the first counts."""
    for number, spec in enumerate(specs):
        parse_header_name(spec.name, (*at, number, "name"))
    first: dict[str, ValueMatch] = {}
    for item, spec in zip(_conditions(specs, at, problems), specs, strict=True):
        name = spec.name.lower()
        # The wire's bytes are read as Latin-1, so a text beyond ASCII is compared in that form.
        exact = item.kind is ValueMatchType.EXACT
        value = item.value.encode().decode("latin-1") if exact else item.value
        first.setdefault(name, ValueMatch(name=name, value=value, kind=item.kind))
    return tuple(first.values())


def _conditions(
    specs: Sequence[ValueMatchSpec], at: FieldPath, problems: list[RuleProblem]
) -> tuple[ValueMatch, ...]:
    check_count(len(specs), _MAX_CONDITIONS, at)
    found: list[ValueMatch] = []
    for number, spec in enumerate(specs):
        own = (*at, number)
        if not spec.name:
            raise FieldError((*own, "name"), "the match needs a name")
        kind = ValueMatchType.EXACT
        if spec.type not in tuple(ValueMatchType):
            _unsupported(problems, (*own, "type"), f"matches of type {spec.type!r}")
        else:
            kind = ValueMatchType(spec.type)
        if kind is ValueMatchType.REGEX:
            _check_pattern(spec.value, (*own, "value"), problems)
        found.append(ValueMatch(name=spec.name, value=spec.value, kind=kind))
    return tuple(found)


def _check_pattern(text: str, at: FieldPath, problems: list[RuleProblem]) -> None:
    try:
        compile_pattern(text)
    except ConfigError as error:
        field = format_path(at)
        problem = RuleProblem(reason=UNSUPPORTED, field=field, message=str(error), in_match=True)
        problems.append(problem)


def _unsupported(problems: list[RuleProblem], at: FieldPath, what: str) -> None:
    message = f"{what} are not supported"
    field = format_path(at)
    problems.append(RuleProblem(reason=UNSUPPORTED, field=field, message=message, in_match=True))


def _backends(
    specs: Sequence[BackendRefSpec],
    namespace: str,
    at_rule: FieldPath,
    allowed: Sequence[str],
    problems: list[RuleProblem],
) -> tuple[BackendRef, ...]:
    at = (*at_rule, "backendRefs")
    check_count(len(specs), MAX_BACKENDS, at)
    return tuple(
        BackendRef(
            target=backend_target(spec, namespace, (*at, number)),
            weight=parse_between(spec.weight, 0, _MAX_WEIGHT, (*at, number, "weight")),
            filters=read_filters(
                spec.filters, namespace, (*at, number, "filters"), allowed, problems
            ),
        )
        for number, spec in enumerate(specs)
    )
