"""Why a token or a key set is refused."""

from __future__ import annotations

from enum import StrEnum

from mesh.errors import ConfigError, MeshnodeError


class TokenFault(StrEnum):
    """What is wrong with a token; a metric label and the detail of the access log."""

    MALFORMED = "jwt_malformed"
    TOO_LARGE = "jwt_too_large"
    SEVERAL = "jwt_several_tokens"
    ALGORITHM = "jwt_algorithm_refused"
    CRITICAL = "jwt_critical_header"
    UNKNOWN_KEY = "jwt_unknown_key"
    NO_KEYS = "jwks_unavailable"
    SIGNATURE = "jwt_signature"
    ISSUER = "jwt_unknown_issuer"
    AUDIENCE = "jwt_audience"
    EXPIRED = "jwt_expired"
    NOT_YET_VALID = "jwt_not_yet_valid"


class TokenError(MeshnodeError):
    """A token is not to be believed. The text holds nothing that the client chose."""

    def __init__(self, fault: TokenFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class KeySetError(ConfigError):
    """A document is not a JSON Web Key Set, or none of its keys can be used."""
