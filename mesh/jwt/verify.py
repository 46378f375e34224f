"""Signature and registered claims of a token (RFC 7515 §5.2, RFC 7518 §3, RFC 7519 §4.1).

The algorithm must be one of a fixed table *and* fit the key, so that a token cannot choose how it
is checked. `none` and HMAC are not in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from mesh.jwt.errors import TokenError, TokenFault
from mesh.jwt.keys import KeySet, VerificationKey
from mesh.jwt.token import UnverifiedToken
from mesh.model.claims import JsonValue

CLOCK_SKEW_S = 60.0
"""Envoy's jwt_authn allows as much."""
MAX_TRIES = 4
"""Keys tried for one token: without a kid a large set would make every bad token expensive."""

_HASHES: Mapping[str, HashAlgorithm] = {"256": SHA256(), "384": SHA384(), "512": SHA512()}
ALGORITHMS = frozenset(
    {*(f"{kind}{size}" for kind in ("RS", "PS", "ES") for size in _HASHES), "EdDSA"}
)


def check_signature(token: UnverifiedToken, keys: KeySet) -> None:
    """Check that one of the keys signed the token; raise `TokenError`."""
    if token.algorithm not in ALGORITHMS:
        raise TokenError(TokenFault.ALGORITHM, "the token's algorithm is not accepted")
    candidates = keys.candidates(token.kid, token.algorithm)
    if not candidates:
        raise TokenError(TokenFault.UNKNOWN_KEY, "no key of the issuer fits the token")
    if not any(_signed_by(key, token) for key in candidates[:MAX_TRIES]):
        raise TokenError(TokenFault.SIGNATURE, "the token's signature is wrong")


def _signed_by(key: VerificationKey, token: UnverifiedToken) -> bool:
    public, kind = key.public, token.algorithm[:2]
    try:
        if isinstance(public, RSAPublicKey):
            digest = _HASHES[token.algorithm[2:]]
            public.verify(token.signature, token.signed, _padding(kind, digest), digest)
        elif isinstance(public, EllipticCurvePublicKey):
            size = (public.curve.key_size + 7) // 8
            signature = _der(token.signature, size)
            public.verify(signature, token.signed, ECDSA(_HASHES[token.algorithm[2:]]))
        else:
            public.verify(token.signature, token.signed)
    except InvalidSignature:
        return False
    return True


def _padding(kind: str, digest: HashAlgorithm) -> padding.PKCS1v15 | padding.PSS:
    if kind == "RS":
        return padding.PKCS1v15()
    # RFC 7518 §3.5: the salt is as long as the digest.
    return padding.PSS(padding.MGF1(digest), digest.digest_size)


def _der(signature: bytes, size: int) -> bytes:
    """Turn R || S of fixed length (RFC 7518 §3.4) into what the library takes."""
    if len(signature) != 2 * size:
        raise InvalidSignature
    return encode_dss_signature(int.from_bytes(signature[:size]), int.from_bytes(signature[size:]))


def check_claims(token: UnverifiedToken, audiences: Sequence[str], now: float) -> None:
    """Check times and audience; raise `TokenError`. `now` is seconds since the epoch."""
    payload = token.payload
    expires, not_before = _date(payload, "exp"), _date(payload, "nbf")
    _date(payload, "iat")
    if expires is not None and now >= expires + CLOCK_SKEW_S:
        raise TokenError(TokenFault.EXPIRED, "the token has expired")
    if not_before is not None and now < not_before - CLOCK_SKEW_S:
        raise TokenError(TokenFault.NOT_YET_VALID, "the token is not valid yet")
    named = _audiences(payload)
    if audiences and named.isdisjoint(audiences):
        raise TokenError(TokenFault.AUDIENCE, "the token is for another audience")


def _date(payload: Mapping[str, JsonValue], name: str) -> float | None:
    """Read a NumericDate (RFC 7519 §2)."""
    value = payload.get(name)
    if value is None and name not in payload:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
        raise TokenError(TokenFault.MALFORMED, f"the token's {name} is not a time")
    return float(value)


def _audiences(payload: Mapping[str, JsonValue]) -> frozenset[str]:
    value = payload.get("aud", [])
    named = [value] if isinstance(value, str) else value
    if isinstance(named, list) and all(isinstance(item, str) for item in named):
        return frozenset(str(item) for item in named)
    raise TokenError(TokenFault.MALFORMED, "the token's aud is not a string or list of strings")
