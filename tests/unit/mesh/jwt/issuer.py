"""A test issuer: keys of every kind, and tokens signed without the code under test."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from mesh.model.authentication import JwtRule

ISSUER = "https://id.example"
NOW = 1_700_000_000.0
HASHES: Mapping[str, HashAlgorithm] = {"256": SHA256(), "384": SHA384(), "512": SHA512()}


def b64(data: bytes) -> str:
    """Encode as base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _number(value: int, size: int = 0) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


@dataclass(frozen=True)
class Signer:
    """A private key with its public JWK."""

    algorithm: str
    jwk: Mapping[str, object]
    sign: Callable[[bytes], bytes]


@cache
def _rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def signer(algorithm: str, kid: str = "") -> Signer:
    """Make a key for an algorithm; the same one each time."""
    names: dict[str, object] = {"kid": kid} if kid else {}
    if algorithm.startswith(("RS", "PS")):
        return _rsa_signer(algorithm, names)
    if algorithm.startswith("ES"):
        return _ec_signer(algorithm, names)
    key = ed25519.Ed25519PrivateKey.generate()
    if algorithm == "Ed448":
        old = ed448.Ed448PrivateKey.generate()
        public = b64(old.public_key().public_bytes_raw())
        return Signer("EdDSA", {"kty": "OKP", "crv": "Ed448", "x": public, **names}, old.sign)
    public = b64(key.public_key().public_bytes_raw())
    return Signer("EdDSA", {"kty": "OKP", "crv": "Ed25519", "x": public, **names}, key.sign)


def _rsa_signer(algorithm: str, names: Mapping[str, object]) -> Signer:
    key, digest = _rsa_key(), HASHES[algorithm[2:]]
    numbers = key.public_key().public_numbers()
    jwk = {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e), **names}

    def sign(data: bytes) -> bytes:
        if algorithm.startswith("PS"):
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            return key.sign(data, pss, digest)
        return key.sign(data, padding.PKCS1v15(), digest)

    return Signer(algorithm, jwk, sign)


def _ec_signer(algorithm: str, names: Mapping[str, object]) -> Signer:
    curves: dict[str, tuple[ec.EllipticCurve, str]] = {
        "ES256": (ec.SECP256R1(), "P-256"),
        "ES384": (ec.SECP384R1(), "P-384"),
        "ES512": (ec.SECP521R1(), "P-521"),
    }
    curve, name = curves[algorithm]
    key, size = ec.generate_private_key(curve), (curve.key_size + 7) // 8
    numbers = key.public_key().public_numbers()
    x, y = _number(numbers.x, size), _number(numbers.y, size)
    jwk = {"kty": "EC", "crv": name, "x": x, "y": y, **names}

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(HASHES[algorithm[2:]])))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    return Signer(algorithm, jwk, sign)


def payload(**claims: object) -> dict[str, object]:
    """Make claims that hold at `NOW`; None takes one away."""
    base: dict[str, object] = {"iss": ISSUER, "sub": "ann", "aud": "shop", "exp": NOW + 600}
    return {name: value for name, value in {**base, **claims}.items() if value is not None}


def token(
    by: Signer,
    claims: Mapping[str, object] | bytes | None = None,
    header: Mapping[str, object] | bytes | None = None,
) -> str:
    """Sign claims; `header` is added to, or (bytes) taken as it is."""
    if claims is None:
        claims = payload()
    if not isinstance(header, bytes):
        kid = {"kid": by.jwk["kid"]} if "kid" in by.jwk else {}
        header = json.dumps({"alg": by.algorithm, **kid, **(header or {})}).encode()
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"{b64(header)}.{b64(body)}"
    return f"{signed}.{b64(by.sign(signed.encode()))}"


def jwks(*signers: Signer | Mapping[str, object]) -> bytes:
    """Write a key set."""
    keys = [item.jwk if isinstance(item, Signer) else item for item in signers]
    return json.dumps({"keys": keys}).encode()


def rule(**fields: object) -> JwtRule:
    """Make a rule of the test issuer."""
    return JwtRule(**{"issuer": ISSUER, **fields})  # type: ignore[arg-type]  # a test's shorthand


def bearer(text: str, **more: str) -> Mapping[str, str]:
    """Headers with a bearer token."""
    return {"authorization": f"Bearer {text}", **more}


ALGORITHMS: Sequence[str] = (
    *(f"{kind}{size}" for kind in ("RS", "PS", "ES") for size in ("256", "384", "512")),
    "EdDSA",
    "Ed448",
)
