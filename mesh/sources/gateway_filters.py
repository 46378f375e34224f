"""Filters of routes and backendRefs: one list of tagged objects to one record."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from mesh.model.routing import (
    BackendTarget,
    Cors,
    HeaderEdit,
    HeaderField,
    Mirror,
    PathRewrite,
    PathRewriteType,
    Redirect,
    Rewrite,
    RouteFilters,
    RuleProblem,
)
from mesh.sources.fields import FieldError, FieldPath, format_path, parse_namespace, parse_port
from mesh.sources.gateway_schema import (
    BackendObjectSpec,
    BackendRefSpec,
    CorsSpec,
    FilterSpec,
    HeaderFilterSpec,
    HeaderSpec,
    MirrorSpec,
    PathModifierSpec,
    RedirectSpec,
    RewriteSpec,
)
from mesh.sources.http_fields import (
    check_count,
    parse_between,
    parse_header_name,
    parse_header_value,
    parse_hostname,
)

MAX_FILTERS = 16
UNSUPPORTED = "UnsupportedValue"
_MAX_HEADERS = 16
_MAX_CORS_ITEMS = 64
_REDIRECT_STATUS = (301, 302, 303, 307, 308)
# Where a message ends and who gets it is not a filter's to say (RFC 9110 §7.6.1, RFC 9112 §6).
_FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# type -> the field that it names (Gateway API HTTPRouteFilter).
_FIELDS = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestRedirect": "request_redirect",
    "URLRewrite": "url_rewrite",
    "RequestMirror": "request_mirror",
    "CORS": "cors",
    "ExtensionRef": "extension_ref",
    "ExternalAuth": "external_auth",
}
_KNOWN = tuple(_FIELDS)[:6]
GRPC_TYPES = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror")
HTTP_TYPES = _KNOWN


def read_filters(
    specs: Sequence[FilterSpec],
    namespace: str,
    at: FieldPath,
    allowed: Sequence[str],
    problems: list[RuleProblem],
) -> RouteFilters:
    """Read a list of filters; what is well-formed but not supported joins `problems`."""
    check_count(len(specs), MAX_FILTERS, at)
    found = RouteFilters()
    seen: set[str] = set()
    for number, spec in enumerate(specs):
        own = (*at, number)
        if spec.type not in allowed:
            message = f"filters of type {spec.type!r} are not supported"
            field = format_path((*own, "type"))
            problems.append(RuleProblem(reason=UNSUPPORTED, field=field, message=message))
            continue
        _check_union(spec, own)
        if spec.type in seen and spec.type != "RequestMirror":
            raise FieldError((*own, "type"), f"{spec.type} may stand only once")
        seen.add(spec.type)
        found = _with(found, spec, namespace, own)
    if found.redirect and found.rewrite:
        raise FieldError(at, "RequestRedirect and URLRewrite exclude each other", at_key=True)
    return found


def _check_union(spec: FilterSpec, at: FieldPath) -> None:
    for kind, field in _FIELDS.items():
        is_set = getattr(spec, field) is not None
        name = re.sub(r"_(.)", lambda found: found[1].upper(), field)
        if kind == spec.type and not is_set:
            raise FieldError((*at, name), f"a filter of type {kind} needs it", at_key=True)
        if kind != spec.type and is_set:
            message = f"does not belong to a filter of type {spec.type}"
            raise FieldError((*at, name), message, at_key=True)


def _with(found: RouteFilters, spec: FilterSpec, namespace: str, at: FieldPath) -> RouteFilters:
    if spec.request_header_modifier is not None:
        own = (*at, "requestHeaderModifier")
        return replace(found, request_headers=_header_edit(spec.request_header_modifier, own))
    if spec.response_header_modifier is not None:
        own = (*at, "responseHeaderModifier")
        return replace(found, response_headers=_header_edit(spec.response_header_modifier, own))
    if spec.request_redirect is not None:
        redirect = _redirect(spec.request_redirect, (*at, "requestRedirect"))
        return replace(found, redirect=redirect)
    if spec.url_rewrite is not None:
        return replace(found, rewrite=_rewrite(spec.url_rewrite, (*at, "urlRewrite")))
    if spec.request_mirror is not None:
        mirror = _mirror(spec.request_mirror, namespace, (*at, "requestMirror"))
        return replace(found, mirrors=(*found.mirrors, mirror))
    assert spec.cors is not None
    return replace(found, cors=_cors(spec.cors, (*at, "cors")))


def _header_edit(spec: HeaderFilterSpec, at: FieldPath) -> HeaderEdit:
    lists = (len(spec.set), len(spec.add), len(spec.remove))
    for name, count in zip(("set", "add", "remove"), lists, strict=True):
        check_count(count, _MAX_HEADERS, (*at, name))
    edit = HeaderEdit(
        set=_headers(spec.set, (*at, "set")),
        add=_headers(spec.add, (*at, "add")),
        remove=tuple(
            parse_header_name(name, (*at, "remove", number))
            for number, name in enumerate(spec.remove)
        ),
    )
    names = [field.name for field in (*edit.set, *edit.add)] + list(edit.remove)
    framing = next((name for name in names if name in _FRAMING), None)
    if framing is not None:
        hint = "; urlRewrite.hostname changes the host" if framing == "host" else ""
        raise FieldError(at, f"header {framing!r} belongs to the connection{hint}", at_key=True)
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise FieldError(at, f"more than one action on header {doubled!r}", at_key=True)
    return edit


def _headers(specs: Sequence[HeaderSpec], at: FieldPath) -> tuple[HeaderField, ...]:
    return tuple(
        HeaderField(
            name=parse_header_name(spec.name, (*at, number, "name")),
            value=parse_header_value(spec.value, (*at, number, "value")),
        )
        for number, spec in enumerate(specs)
    )


def _path_rewrite(spec: PathModifierSpec | None, at: FieldPath) -> PathRewrite | None:
    if spec is None:
        return None
    values = {
        "ReplaceFullPath": spec.replace_full_path,
        "ReplacePrefixMatch": spec.replace_prefix_match,
    }
    if spec.type not in values:
        raise FieldError((*at, "type"), f"{spec.type!r} is not {' or '.join(values)}")
    value = values.pop(spec.type)
    if value is None or any(other is not None for other in values.values()):
        field = spec.type[0].lower() + spec.type[1:]
        raise FieldError(at, f"type {spec.type} goes with {field}, and with it alone", at_key=True)
    if len(value) > 1024 or any(char <= " " or char in "\x7f?#" for char in value):
        raise FieldError(at, f"{value!r} cannot be (part of) a path", at_key=True)
    return PathRewrite(kind=PathRewriteType(spec.type), value=value)


def _redirect(spec: RedirectSpec, at: FieldPath) -> Redirect:
    if spec.scheme is not None and spec.scheme not in ("http", "https"):
        raise FieldError((*at, "scheme"), f"{spec.scheme!r} is neither 'http' nor 'https'")
    if spec.status_code not in _REDIRECT_STATUS:
        known = ", ".join(map(str, _REDIRECT_STATUS))
        raise FieldError((*at, "statusCode"), f"{spec.status_code} is not one of {known}")
    return Redirect(
        scheme=spec.scheme,
        hostname=_optional(spec.hostname, (*at, "hostname"), parse_hostname),
        path=_path_rewrite(spec.path, (*at, "path")),
        port=None if spec.port is None else parse_port(spec.port, (*at, "port")),
        status=spec.status_code,
    )


def _rewrite(spec: RewriteSpec, at: FieldPath) -> Rewrite:
    return Rewrite(
        hostname=_optional(spec.hostname, (*at, "hostname"), parse_hostname),
        path=_path_rewrite(spec.path, (*at, "path")),
    )


def _optional(
    text: str | None, at: FieldPath, parse: Callable[[str, FieldPath], str]
) -> str | None:
    return None if text is None else parse(text, at)


def _mirror(spec: MirrorSpec, namespace: str, at: FieldPath) -> Mirror:
    target = backend_target(spec.backend_ref, namespace, (*at, "backendRef"))
    if spec.percent is not None and spec.fraction is not None:
        raise FieldError((*at, "percent"), "percent and fraction exclude each other", at_key=True)
    if spec.percent is not None:
        percent = parse_between(spec.percent, 0, 100, (*at, "percent"))
        return Mirror(target=target, numerator=percent)
    if spec.fraction is None:
        return Mirror(target=target)
    top, bottom = spec.fraction.numerator, spec.fraction.denominator
    if bottom < 1 or not 0 <= top <= bottom:
        raise FieldError((*at, "fraction"), f"{top}/{bottom} is not a fraction of 0 to 1")
    return Mirror(target=target, numerator=top, denominator=bottom)


def backend_target(
    spec: BackendObjectSpec | BackendRefSpec, namespace: str, at: FieldPath
) -> BackendTarget:
    """Read what a reference names."""
    if not spec.name:
        raise FieldError((*at, "name"), "the reference needs a name")
    own = parse_namespace(spec.namespace, (*at, "namespace")) if spec.namespace else namespace
    if spec.port is None and (spec.group, spec.kind) == ("", "Service"):
        raise FieldError((*at, "port"), "a reference to a Service needs a port", at_key=True)
    return BackendTarget(
        name=spec.name,
        namespace=own,
        port=None if spec.port is None else parse_port(spec.port, (*at, "port")),
        group=spec.group,
        kind=spec.kind,
    )


_ORIGIN = re.compile(r"[a-z][a-z0-9+.\-]*://(\*|(\*\.)?[a-z0-9.\-\[\]:]+?)(:(\*|[0-9]{1,5}))?")


def _cors(spec: CorsSpec, at: FieldPath) -> Cors:
    for number, origin in enumerate(spec.allow_origins):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            message = f"{origin!r} is not '*' or <scheme>://<host>[:<port>]"
            raise FieldError((*at, "allowOrigins", number), message)
    lists = {
        "allowOrigins": spec.allow_origins,
        "allowMethods": spec.allow_methods,
        "allowHeaders": spec.allow_headers,
        "exposeHeaders": spec.expose_headers,
    }
    for name, items in lists.items():
        check_count(len(items), _MAX_CORS_ITEMS, (*at, name))
        if "*" in items and len(items) > 1:
            raise FieldError((*at, name), "'*' must stand alone", at_key=True)
    for name in ("allowMethods", "allowHeaders", "exposeHeaders"):
        for number, item in enumerate(lists[name]):
            if item != "*":
                parse_header_name(item, (*at, name, number))
    if spec.max_age < 1:
        raise FieldError((*at, "maxAge"), f"{spec.max_age} is not at least 1 (seconds)")
    return Cors(
        allow_origins=spec.allow_origins,
        allow_credentials=spec.allow_credentials,
        allow_methods=spec.allow_methods,
        allow_headers=spec.allow_headers,
        expose_headers=spec.expose_headers,
        max_age_s=spec.max_age,
    )
