"""A token taken apart, nothing in it verified (RFC 7515 §3.1, compact serialization)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.jwt.encoding import EncodingError, decode_base64url, parse_json_object
from mesh.jwt.errors import TokenError, TokenFault
from mesh.model.claims import JsonValue

MAX_TOKEN_BYTES = 8 * 1024
"""Servers commonly take 8 KiB per header line, so no longer token travels anyway."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """The parts of a token. Whoever holds it must not believe it."""

    algorithm: str
    kid: str
    payload: Mapping[str, JsonValue]
    payload_text: str
    """The payload as it travelled, in base64url."""
    signed: bytes
    signature: bytes

    @property
    def issuer(self) -> str:
        """`iss`; empty where it is missing or no string."""
        issuer = self.payload.get("iss")
        return issuer if isinstance(issuer, str) else ""


def parse_token(text: str, max_bytes: int = MAX_TOKEN_BYTES) -> UnverifiedToken:
    """Take a token apart; raise `TokenError`."""
    if len(text) > max_bytes:
        raise TokenError(TokenFault.TOO_LARGE, f"the token has more than {max_bytes} bytes")
    parts = text.split(".", 3)
    if len(parts) != 3:
        raise TokenError(TokenFault.MALFORMED, "the token has not three parts")
    head, payload, signature = parts
    try:
        header = parse_json_object(decode_base64url(head))
        claims = parse_json_object(decode_base64url(payload))
        signature_bytes = decode_base64url(signature)
    except EncodingError as error:
        raise TokenError(TokenFault.MALFORMED, f"the token is {error}") from error
    algorithm, kid = _read_header(header)
    signed = f"{head}.{payload}".encode("ascii")
    return UnverifiedToken(algorithm, kid, claims, payload, signed, signature_bytes)


def _read_header(header: Mapping[str, JsonValue]) -> tuple[str, str]:
    if "crit" in header or "b64" in header:
        # RFC 7515 §4.1.11: an extension that is not understood makes the token invalid. We
        # understand none; `b64` (RFC 7797) would change what is signed.
        raise TokenError(TokenFault.CRITICAL, "the token demands an extension")
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or not algorithm:
        raise TokenError(TokenFault.MALFORMED, "the token names no algorithm")
    if not isinstance(kid, str):
        raise TokenError(TokenFault.MALFORMED, "the token's kid is not a string")
    return algorithm, kid
