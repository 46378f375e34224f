"""RequestAuthentication: schema, checks, and the way to the model."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from mesh.jwt.errors import KeySetError
from mesh.jwt.keys import parse_key_set
from mesh.model.authentication import (
    DEFAULT_FETCH_TIMEOUT_S,
    ClaimToHeader,
    JwtRule,
    RequestAuthentication,
    TokenHeader,
)
from mesh.model.policy import PolicyKey, PolicyScope
from mesh.sources.fields import FieldError, FieldPath
from mesh.sources.http_fields import check_count, parse_header_name, parse_positive_duration
from mesh.sources.objects import Metadata, Strict
from mesh.sources.security_schema import Selector, TargetRef
from mesh.sources.security_targets import check_targets, read_targets

ALLOW_HTTP_ANNOTATION = "meshnode.io/allow-http-jwks"
"""Lets keys come over plain HTTP: whoever is on the way can then sign any token."""

_MAX_RULES = 64
_MAX_TIMEOUT_S = 60.0
# A claim must not change where a request goes, how long it is, or who we say is calling.
_RESERVED_HEADERS = frozenset(
    {
        "host",
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-client-cert",
        "x-forwarded-for",
    }
)


class FromHeader(Strict, frozen=True, kw_only=True):
    """jwtRules[].fromHeaders[]."""

    name: str
    prefix: str = ""


class OutputClaim(Strict, frozen=True, kw_only=True):
    """jwtRules[].outputClaimToHeaders[]."""

    header: str
    claim: str


class JwtRuleSpec(Strict, frozen=True, kw_only=True):
    """spec.jwtRules[]."""

    issuer: str
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[FromHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    forward_original_token: bool = False
    output_payload_to_header: str = ""
    output_claim_to_headers: tuple[OutputClaim, ...] = ()
    space_delimited_claims: tuple[str, ...] = ()
    timeout: str | None = None


class RequestAuthenticationSpec(Strict, frozen=True, kw_only=True):
    """RequestAuthentication.spec."""

    selector: Selector | None = None
    target_ref: TargetRef | None = None
    target_refs: tuple[TargetRef, ...] = ()
    jwt_rules: tuple[JwtRuleSpec, ...] = ()


class RequestAuthenticationObject(Strict, frozen=True, kw_only=True):
    """security.istio.io and meshnode.io RequestAuthentication."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()
    status: object = None


def request_authentication(body: RequestAuthenticationObject) -> RequestAuthentication:
    """Turn the object into the model's value; raise `FieldError`."""
    spec, meta = body.spec, body.metadata
    check_targets(spec.selector, spec.target_ref, spec.target_refs)
    at: FieldPath = ("spec", "jwtRules")
    check_count(len(spec.jwt_rules), _MAX_RULES, at)
    selector = dict(spec.selector.match_labels) if spec.selector else {}
    targets = read_targets(spec.target_ref, spec.target_refs, meta.namespace)
    scope = PolicyScope.SELECTOR if selector else PolicyScope.NAMESPACE
    insecure = _allows_http(meta)
    return RequestAuthentication(
        key=PolicyKey(f"{meta.namespace}/{meta.name}"),
        namespace=meta.namespace,
        name=meta.name,
        scope=PolicyScope.TARGET if targets else scope,
        rules=tuple(
            _rule(rule, (*at, number), insecure) for number, rule in enumerate(spec.jwt_rules)
        ),
        selector=selector,
        targets=targets,
    )


def _allows_http(meta: Metadata) -> bool:
    value = meta.annotations.get(ALLOW_HTTP_ANNOTATION, "false")
    if value not in ("true", "false"):
        at: FieldPath = ("metadata", "annotations", ALLOW_HTTP_ANNOTATION)
        raise FieldError(at, f"{value!r} is neither 'true' nor 'false'")
    return value == "true"


def _rule(spec: JwtRuleSpec, at: FieldPath, insecure: bool) -> JwtRule:
    if not spec.issuer:
        raise FieldError((*at, "issuer"), "the issuer must not be empty")
    _check_keys(spec, at, insecure)
    claims = tuple(
        _output(item, (*at, "outputClaimToHeaders", number))
        for number, item in enumerate(spec.output_claim_to_headers)
    )
    payload = spec.output_payload_to_header
    if payload:
        payload = _output_header(payload, (*at, "outputPayloadToHeader"))
    _check_collisions(claims, payload, at)
    timeout = DEFAULT_FETCH_TIMEOUT_S
    if spec.timeout is not None:
        timeout = parse_positive_duration(spec.timeout, (*at, "timeout"))
    return JwtRule(
        issuer=spec.issuer,
        audiences=_filled(spec.audiences, (*at, "audiences")),
        jwks=spec.jwks,
        jwks_uri=spec.jwks_uri,
        allow_http=insecure,
        from_headers=tuple(
            TokenHeader(
                name=parse_header_name(item.name, (*at, "fromHeaders", number, "name")),
                prefix=item.prefix,
            )
            for number, item in enumerate(spec.from_headers)
        ),
        from_params=_filled(spec.from_params, (*at, "fromParams")),
        from_cookies=_filled(spec.from_cookies, (*at, "fromCookies")),
        forward_original_token=spec.forward_original_token,
        output_payload_to_header=payload,
        output_claims=claims,
        space_delimited=_filled(spec.space_delimited_claims, (*at, "spaceDelimitedClaims")),
        timeout_s=min(timeout, _MAX_TIMEOUT_S),
    )


def _check_keys(spec: JwtRuleSpec, at: FieldPath, insecure: bool) -> None:
    if spec.jwks and spec.jwks_uri:
        raise FieldError((*at, "jwks"), "jwks and jwksUri exclude each other", at_key=True)
    if spec.jwks:
        try:
            parse_key_set(spec.jwks.encode())
        except (KeySetError, UnicodeEncodeError) as error:
            raise FieldError((*at, "jwks"), str(error)) from error
    elif spec.jwks_uri:
        _check_url(spec.jwks_uri, (*at, "jwksUri"), insecure)
    else:
        # OIDC discovery asks the issuer itself (OpenID Connect Discovery §4).
        _check_url(spec.issuer, (*at, "issuer"), insecure)


def _check_url(text: str, at: FieldPath, insecure: bool) -> None:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not text.isascii() or any(sign <= " " for sign in text):
        message = "is not an https URL; without jwks and jwksUri the issuer is asked for its keys"
        raise FieldError(at, f"{text!r} {message if at[-1] == 'issuer' else 'is not an https URL'}")
    if parts.scheme == "http" and not insecure:
        hint = f"use https, or set annotation {ALLOW_HTTP_ANNOTATION}: 'true'"
        raise FieldError(at, f"keys must not come over plain HTTP: {hint}")


def _filled(values: Sequence[str], at: FieldPath) -> tuple[str, ...]:
    for number, value in enumerate(values):
        if not value:
            raise FieldError((*at, number), "an empty string matches nothing")
    return tuple(values)


def _output(item: OutputClaim, at: FieldPath) -> ClaimToHeader:
    way = tuple(item.claim.split("."))
    if not all(way):
        raise FieldError((*at, "claim"), f"{item.claim!r} is not a claim such as sub or realm.name")
    return ClaimToHeader(header=_output_header(item.header, (*at, "header")), claim=way)


def _output_header(text: str, at: FieldPath) -> str:
    name = parse_header_name(text, at)
    if name in _RESERVED_HEADERS:
        raise FieldError(at, f"header {name!r} is not for claims")
    return name


def _check_collisions(claims: Sequence[ClaimToHeader], payload: str, at: FieldPath) -> None:
    seen = {payload} if payload else set()
    for number, item in enumerate(claims):
        if item.header in seen:
            own: FieldPath = (*at, "outputClaimToHeaders", number, "header")
            raise FieldError(own, f"header {item.header!r} is already written by this rule")
        seen.add(item.header)
