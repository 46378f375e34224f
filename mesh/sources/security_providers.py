"""MeshConfig.spec.extensionProviders: external authorizers of CUSTOM policies."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from mesh.model.policy import StringMatch
from mesh.model.provider import BodyCheck, ExternalAuthorizer, ProviderProtocol, ProviderTls
from mesh.sources.fields import FieldError, FieldPath, parse_port, parse_string_form
from mesh.sources.http_fields import (
    parse_between,
    parse_header_name,
    parse_header_value,
    parse_positive_duration,
)
from mesh.sources.objects import ExtensionProvider, ExternalAuthorizerSpec

_MAX_BODY_BYTES = 16 * 1024 * 1024
_MAX_TIMEOUT_S = 600.0
"""Istio's default, far beyond what a request should wait."""


def read_providers(
    specs: Sequence[ExtensionProvider], at: FieldPath
) -> tuple[ExternalAuthorizer, ...]:
    """Read all providers; raise `FieldError`."""
    providers: dict[str, ExternalAuthorizer] = {}
    for number, spec in enumerate(specs):
        own: FieldPath = (*at, number)
        if not spec.name:
            raise FieldError((*own, "name"), "a provider needs a name")
        if spec.name in providers:
            raise FieldError((*own, "name"), f"there is already a provider {spec.name!r}")
        providers[spec.name] = _provider(spec, own)
    return tuple(providers.values())


def _provider(spec: ExtensionProvider, at: FieldPath) -> ExternalAuthorizer:
    kinds = {
        ProviderProtocol.HTTP: ("envoyExtAuthzHttp", spec.envoy_ext_authz_http),
        ProviderProtocol.GRPC: ("envoyExtAuthzGrpc", spec.envoy_ext_authz_grpc),
    }
    given = [(protocol, name, body) for protocol, (name, body) in kinds.items() if body]
    if len(given) != 1:
        want = "either envoyExtAuthzHttp or envoyExtAuthzGrpc"
        raise FieldError((*at, "name"), f"provider {spec.name!r} needs {want}")
    ((protocol, name, body),) = given
    return _authorizer(spec.name, protocol, body, (*at, name))


def _authorizer(
    name: str, protocol: ProviderProtocol, spec: ExternalAuthorizerSpec, at: FieldPath
) -> ExternalAuthorizer:
    if not spec.service:
        raise FieldError((*at, "service"), "the service must not be empty")
    if spec.path_prefix and not spec.path_prefix.startswith("/"):
        raise FieldError((*at, "pathPrefix"), f"{spec.path_prefix!r} does not start with '/'")
    default = ExternalAuthorizer(name=name, service=spec.service, port=spec.port)
    timeout = default.timeout_s
    if spec.timeout is not None:
        timeout = parse_positive_duration(spec.timeout, (*at, "timeout"))
    return ExternalAuthorizer(
        name=name,
        service=spec.service,
        port=parse_port(spec.port, (*at, "port")),
        protocol=protocol,
        timeout_s=min(timeout, _MAX_TIMEOUT_S),
        path_prefix=spec.path_prefix,
        fail_open=spec.fail_open,
        error_status=_status(spec.status_on_error, (*at, "statusOnError"), default.error_status),
        check_headers=_headers(
            spec.include_request_headers_in_check, (*at, "includeRequestHeadersInCheck")
        ),
        extra_headers=_extra(spec, (*at, "includeAdditionalHeadersInCheck")),
        upstream_headers=_headers(
            spec.headers_to_upstream_on_allow, (*at, "headersToUpstreamOnAllow")
        ),
        denied_headers=_headers(
            spec.headers_to_downstream_on_deny, (*at, "headersToDownstreamOnDeny")
        ),
        allowed_headers=_headers(
            spec.headers_to_downstream_on_allow, (*at, "headersToDownstreamOnAllow")
        ),
        body=_body(spec, (*at, "includeRequestBodyInCheck")),
        tls=_tls(spec, (*at, "tls")),
    )


def _tls(spec: ExternalAuthorizerSpec, at: FieldPath) -> ProviderTls | None:
    if spec.tls is None:
        return None
    name = spec.tls.server_name or spec.service
    if "/" in name:
        message = "a service of the mesh needs a serverName: its certificate's name"
        raise FieldError((*at, "serverName"), message)
    if spec.tls.ca_certificates:
        try:
            ssl.create_default_context(cadata=spec.tls.ca_certificates)
        except (ssl.SSLError, ValueError) as error:
            message = "no certificates in PEM format"
            raise FieldError((*at, "caCertificates"), message) from error
    return ProviderTls(server_name=name, ca_pem=spec.tls.ca_certificates)


def _status(text: str, at: FieldPath, default: int) -> int:
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise FieldError(at, f"{text!r} is not an HTTP status")
    return parse_between(int(text), 400, 599, at)


def _headers(texts: Sequence[str], at: FieldPath) -> tuple[StringMatch, ...]:
    matches = []
    for number, text in enumerate(texts):
        match = parse_string_form(text.lower(), (*at, number))
        if match.value:
            parse_header_name(match.value, (*at, number))
        matches.append(match)
    return tuple(matches)


def _extra(spec: ExternalAuthorizerSpec, at: FieldPath) -> tuple[tuple[str, str], ...]:
    return tuple(
        (parse_header_name(name, (*at, name)), parse_header_value(value, (*at, name)))
        for name, value in spec.include_additional_headers_in_check.items()
    )


def _body(spec: ExternalAuthorizerSpec, at: FieldPath) -> BodyCheck | None:
    body = spec.include_request_body_in_check
    if body is None:
        return None
    limit = parse_between(body.max_request_bytes, 1, _MAX_BODY_BYTES, (*at, "maxRequestBytes"))
    return BodyCheck(max_bytes=limit, allow_partial=body.allow_partial_message)
