"""RequestAuthentication: whose tokens a waypoint believes, and what it makes of them.

The meaning of Istio's object of the same name (RequestAuthentication reference).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.model.policy import PolicyKey, PolicyScope, PolicyTarget

DEFAULT_FETCH_TIMEOUT_S = 5.0
"""Istio's `jwtRules[].timeout`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenHeader:
    """A header that carries a token behind a prefix, which counts with case and spaces."""

    name: str
    """Lower case."""
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimToHeader:
    """A claim that is handed to the application as a header."""

    header: str
    """Lower case."""
    claim: tuple[str, ...]
    """The way to it: `("realm", "tenant")`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRule:
    """One issuer.

    Attributes:
        audiences: any of them must be in `aud`; empty = not restricted.
        jwks: an inline key set; jwks_uri: where it is fetched. Neither: by OIDC discovery.
        allow_http: keys may come over plain HTTP.
        from_headers, from_params, from_cookies: where tokens sit. All empty: `Authorization:
            Bearer`, then the query parameter `access_token`.
        forward_original_token: leave the token in the request.
        output_payload_to_header: header for the payload in base64url, empty = none.
        space_delimited: claims that are lists in one string, besides `scope` and `permission`.
        timeout_s: seconds a fetch of keys may take.
    """

    issuer: str
    audiences: tuple[str, ...] = ()
    jwks: str = ""
    jwks_uri: str = ""
    allow_http: bool = False
    from_headers: tuple[TokenHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    forward_original_token: bool = False
    output_payload_to_header: str = ""
    output_claims: tuple[ClaimToHeader, ...] = ()
    space_delimited: tuple[str, ...] = ()
    timeout_s: float = DEFAULT_FETCH_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuthentication:
    """JWT rules on a set of workloads or targets. All that apply are merged."""

    key: PolicyKey
    namespace: str
    name: str
    scope: PolicyScope
    rules: tuple[JwtRule, ...]
    selector: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[PolicyTarget, ...] = ()
