"""JSON Web Key Sets (RFC 7517) to public keys.

A key that cannot be used is left out with a reason; the others count (RFC 7517 §5). Symmetric
keys never count: in a set that anyone can read they would let anyone sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from mesh.jwt.encoding import EncodingError, decode_base64url, parse_json_object
from mesh.jwt.errors import KeySetError
from mesh.model.claims import JsonValue

MAX_KEY_SET_BYTES = 256 * 1024
MAX_KEYS = 128
"""Large identity providers publish fewer than ten."""
MIN_RSA_BITS = 2048
"""RFC 7518 §3.3."""
MAX_RSA_BITS = 8192
"""A verification of 16384 bits costs milliseconds, for every request."""

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# RFC 7518 §3.4: the curve follows from the algorithm.
_CURVES: Mapping[str, tuple[EllipticCurve, str]] = {
    "P-256": (SECP256R1(), "ES256"),
    "P-384": (SECP384R1(), "ES384"),
    "P-521": (SECP521R1(), "ES512"),
}
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth")


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key and the algorithms it may be used with."""

    kid: str
    """Empty where the key has none."""
    algorithms: frozenset[str]
    public: PublicKey


@dataclass(frozen=True, slots=True)
class KeySet:
    """Usable keys, and what is wrong with the others."""

    keys: tuple[VerificationKey, ...]
    problems: tuple[str, ...] = ()

    def keeps_all_of(self, older: KeySet) -> bool:
        """Whether no key of an older set is missing."""
        return all(key in self.keys for key in older.keys)

    def candidates(self, kid: str, algorithm: str) -> tuple[VerificationKey, ...]:
        """Collect the keys that may have signed: those named `kid`, else those without a name."""
        fitting = [key for key in self.keys if algorithm in key.algorithms]
        if not kid:
            return tuple(fitting)
        named = tuple(key for key in fitting if key.kid == kid)
        return named or tuple(key for key in fitting if not key.kid)


def parse_key_set(data: bytes) -> KeySet:
    """Read a key set; raise `KeySetError` if it is none. It may hold no usable key at all."""
    if len(data) > MAX_KEY_SET_BYTES:
        raise KeySetError(f"a key set of more than {MAX_KEY_SET_BYTES} bytes")
    try:
        members = parse_json_object(data).get("keys")
    except EncodingError as error:
        raise KeySetError(f"not a JSON Web Key Set: {error}") from error
    if not isinstance(members, list):
        raise KeySetError("not a JSON Web Key Set: 'keys' is not a list")
    if len(members) > MAX_KEYS:
        raise KeySetError(f"a key set of more than {MAX_KEYS} keys")
    keys: list[VerificationKey] = []
    problems: list[str] = []
    for number, member in enumerate(members):
        try:
            keys.append(_key(member))
        except (KeySetError, EncodingError) as error:
            problems.append(f"keys[{number}] is left out: {error}")
    return KeySet(tuple(keys), tuple(problems))


def _key(member: JsonValue) -> VerificationKey:
    if not isinstance(member, Mapping):
        raise KeySetError("not an object")
    kid = member.get("kid", "")
    if not isinstance(kid, str):
        raise KeySetError("'kid' is not a string")
    _check_use(member)
    public, algorithms = _public(member)
    named = member.get("alg")
    if named is not None:
        algorithms &= {named} if isinstance(named, str) else frozenset()
        if not algorithms:
            raise KeySetError(f"'alg' does not fit a key of type {member.get('kty')!r}")
    return VerificationKey(kid, algorithms, public)


def _check_use(member: Mapping[str, JsonValue]) -> None:
    if member.get("use", "sig") != "sig":
        raise KeySetError("it is not for signatures ('use')")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise KeySetError("it is not for verifying ('key_ops')")
    if any(name in member for name in _PRIVATE):
        raise KeySetError("it is a private key: everyone who reads the set can sign with it")


def _public(member: Mapping[str, JsonValue]) -> tuple[PublicKey, frozenset[str]]:
    try:
        match member.get("kty"):
            case "RSA":
                return _rsa(member), RSA_ALGORITHMS
            case "EC":
                return _elliptic(member)
            case "OKP":
                return _edwards(member), frozenset({"EdDSA"})
            case "oct":
                raise KeySetError("symmetric keys are refused")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeySetError("its numbers are no public key") from error
    raise KeySetError("its 'kty' is not RSA, EC or OKP")


def _bytes(member: Mapping[str, JsonValue], name: str) -> bytes:
    text = member.get(name)
    if not isinstance(text, str) or not text:
        raise KeySetError(f"{name!r} is missing")
    return decode_base64url(text)


def _rsa(member: Mapping[str, JsonValue]) -> RSAPublicKey:
    modulus = int.from_bytes(_bytes(member, "n"))
    exponent = int.from_bytes(_bytes(member, "e"))
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise KeySetError(f"RSA keys have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits here")
    if exponent < 3 or exponent % 2 == 0 or exponent.bit_length() > 32:
        # A huge exponent makes every verification slow.
        raise KeySetError("the exponent of an RSA key is odd, at least 3, at most 32 bits")
    return RSAPublicNumbers(exponent, modulus).public_key()


def _elliptic(member: Mapping[str, JsonValue]) -> tuple[EllipticCurvePublicKey, frozenset[str]]:
    known = _CURVES.get(str(member.get("crv")))
    if known is None:
        raise KeySetError(f"its curve is not {', '.join(_CURVES)}")
    curve, algorithm = known
    x, y = _bytes(member, "x"), _bytes(member, "y")
    if len(x) != (curve.key_size + 7) // 8 or len(y) != len(x):
        raise KeySetError("its coordinates have the wrong length")  # RFC 7518 §6.2.1.2
    # The constructor checks that the point is on the curve.
    numbers = EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve)
    return numbers.public_key(), frozenset({algorithm})


def _edwards(member: Mapping[str, JsonValue]) -> Ed25519PublicKey | Ed448PublicKey:
    match member.get("crv"):
        case "Ed25519":
            return Ed25519PublicKey.from_public_bytes(_bytes(member, "x"))
        case "Ed448":
            return Ed448PublicKey.from_public_bytes(_bytes(member, "x"))
    raise KeySetError("its curve is not Ed25519 or Ed448")
