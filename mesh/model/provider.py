"""External authorizers: who decides CUSTOM policies (Istio MeshConfig `extensionProviders`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mesh.model.policy import StringMatch

DEFAULT_TIMEOUT_S = 0.2
"""Envoy's ext_authz waits 200 ms."""
DEFAULT_DENIAL = 403


class ProviderProtocol(StrEnum):
    """How an authorizer is asked."""

    HTTP = "http"
    GRPC = "grpc"
    """envoy.service.auth.v3.Authorization."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyCheck:
    """Whether the authorizer sees the body.

    Attributes:
        max_bytes: how much of it; with `allow_partial` the start is sent, otherwise a longer
            body is refused with 413.
    """

    max_bytes: int
    allow_partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTls:
    """TLS towards an authorizer.

    Attributes:
        server_name: that its certificate must be for.
        ca_pem: authorities that may have signed it; empty = those of the system.
    """

    server_name: str
    ca_pem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalAuthorizer:
    """One provider. Header names are lower case.

    Attributes:
        service: `<namespace>/<name>` of a service, or a host name; port: where it listens.
        path_prefix: put before the request's path (HTTP only).
        fail_open: let requests pass while it cannot be asked; else `error_status` is answered.
        check_headers: request headers it is shown besides method, path, host and Authorization.
        extra_headers: fixed headers it is shown.
        upstream_headers: its headers that go on to the application when it allows.
        denied_headers, allowed_headers: its headers that go back to the client.
        body: None = it never sees the body.
        tls: None = plain, but for HBONE towards a service of the mesh.
    """

    name: str
    service: str
    port: int
    protocol: ProviderProtocol = ProviderProtocol.HTTP
    timeout_s: float = DEFAULT_TIMEOUT_S
    path_prefix: str = ""
    fail_open: bool = False
    error_status: int = DEFAULT_DENIAL
    check_headers: tuple[StringMatch, ...] = ()
    extra_headers: tuple[tuple[str, str], ...] = ()
    upstream_headers: tuple[StringMatch, ...] = ()
    denied_headers: tuple[StringMatch, ...] = ()
    allowed_headers: tuple[StringMatch, ...] = ()
    body: BodyCheck | None = None
    tls: ProviderTls | None = None
