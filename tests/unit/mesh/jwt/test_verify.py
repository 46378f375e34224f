"""Signatures, keys and registered claims: what is believed, and everything that is not."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.jwt.errors import KeySetError, TokenError, TokenFault
from mesh.jwt.keys import KeySet, parse_key_set
from mesh.jwt.token import MAX_TOKEN_BYTES, parse_token
from mesh.jwt.verify import check_claims, check_signature
from tests.unit.mesh.jwt.issuer import ALGORITHMS, NOW, Signer, b64, jwks, payload, signer, token


def verify(text: str, keys: KeySet, audiences: tuple[str, ...] = (), now: float = NOW) -> None:
    parsed = parse_token(text)
    check_signature(parsed, keys)
    check_claims(parsed, audiences, now)


def fault(text: str, keys: KeySet, audiences: tuple[str, ...] = ()) -> TokenFault:
    with pytest.raises(TokenError) as caught:
        verify(text, keys, audiences)
    return caught.value.fault


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_verifies_and_notices_a_changed_bit(algorithm: str) -> None:
    own = signer(algorithm)
    keys = parse_key_set(jwks(own))
    assert not keys.problems
    good = token(own)
    verify(good, keys)
    head, body, signature = good.split(".")
    other = b64(json.dumps(payload(sub="eve")).encode())
    assert fault(f"{head}.{other}.{signature}", keys) is TokenFault.SIGNATURE
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    assert fault(f"{head}.{body}.{flipped}", keys) is TokenFault.SIGNATURE
    assert fault(f"{head}.{body}.", keys) is TokenFault.SIGNATURE


def test_none_and_hmac_with_the_public_key_are_refused() -> None:
    own = signer("RS256")
    keys = parse_key_set(jwks(own))
    bare = Signer("none", {}, lambda _: b"")
    assert fault(token(bare), keys) is TokenFault.ALGORITHM
    secret = json.dumps(own.jwk).encode()
    mac = Signer("HS256", {}, lambda data: hmac.digest(secret, data, hashlib.sha256))
    assert fault(token(mac), keys) is TokenFault.ALGORITHM
    for spelling in ("NONE", "None", "rs256", "RS1", "ES256K"):
        assert fault(token(own, header={"alg": spelling}), keys) is TokenFault.ALGORITHM


@pytest.mark.parametrize(
    ("key", "claimed"),
    [("RS256", "ES256"), ("ES256", "RS256"), ("ES256", "ES384"), ("EdDSA", "RS256")],
)
def test_the_algorithm_must_fit_the_key(key: str, claimed: str) -> None:
    own = signer(key)
    text = token(own, header={"alg": claimed})
    assert fault(text, parse_key_set(jwks(own))) is TokenFault.UNKNOWN_KEY


def test_the_algorithm_must_fit_what_the_key_says() -> None:
    own = signer("PS256")
    only_rs = parse_key_set(jwks({**own.jwk, "alg": "RS256"}))
    assert fault(token(own), only_rs) is TokenFault.UNKNOWN_KEY
    verify(token(own), parse_key_set(jwks({**own.jwk, "alg": "PS256"})))


def test_the_key_is_chosen_by_its_name() -> None:
    old, new = signer("ES256", "old"), signer("ES256", "new")
    keys = parse_key_set(jwks(old, new))
    verify(token(new), keys)
    assert fault(token(new, header={"kid": "old"}), keys) is TokenFault.SIGNATURE
    assert fault(token(new, header={"kid": "gone"}), keys) is TokenFault.UNKNOWN_KEY
    unnamed = Signer(new.algorithm, {}, new.sign)
    verify(token(unnamed), keys)  # Without a name every fitting key is tried.
    verify(token(new), parse_key_set(jwks({k: v for k, v in new.jwk.items() if k != "kid"})))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"crit": ["exp"]}, TokenFault.CRITICAL),
        ({"crit": []}, TokenFault.CRITICAL),
        ({"b64": False}, TokenFault.CRITICAL),
        ({"kid": 7}, TokenFault.MALFORMED),
        ({"alg": None}, TokenFault.MALFORMED),
        ({"alg": ""}, TokenFault.MALFORMED),
    ],
)
def test_headers_that_are_refused(header: dict[str, object], expected: TokenFault) -> None:
    own = signer("ES256")
    assert fault(token(own, header=header), parse_key_set(jwks(own))) is expected


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'"x"',
        b"{",
        b"",
        b"\xff{}",
        b"\xef\xbb\xbf{}",
        b'{"exp": NaN}',
        b'{"exp": 1e999}',
        b'{"iss": "a", "iss": "b"}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}",
        b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_payloads_that_are_no_json_object(body: bytes) -> None:
    own = signer("ES256")
    expected = TokenFault.MALFORMED
    assert fault(token(own, body), parse_key_set(jwks(own))) is expected


def test_a_header_member_twice_is_refused() -> None:
    own = signer("ES256")
    text = token(own, header=b'{"alg": "ES256", "alg": "none"}')
    assert fault(text, parse_key_set(jwks(own))) is TokenFault.MALFORMED


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "=",
        lambda text: text + "\n",
        lambda text: text.replace(".", "..", 1),
        lambda text: text + ".x",
        lambda text: text.replace("e", "é", 1),
        lambda text: text.rsplit(".", 1)[0],
        lambda text: " " + text,
        lambda _: "",
        lambda _: "..",
    ],
)
def test_texts_that_are_no_token(change: object) -> None:
    own = signer("ES256")
    assert callable(change)
    assert fault(change(token(own)), parse_key_set(jwks(own))) is TokenFault.MALFORMED


def test_stray_bits_are_a_second_spelling_and_refused() -> None:
    own = signer("EdDSA")  # 64 bytes leave 4 stray bits in the last character.
    text = token(own)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
    assert fault(twin, parse_key_set(jwks(own))) is TokenFault.MALFORMED


def test_a_token_has_a_largest_size() -> None:
    own = signer("ES256")
    text = token(own, payload(filler="x" * MAX_TOKEN_BYTES))
    assert fault(text, parse_key_set(jwks(own))) is TokenFault.TOO_LARGE


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": NOW - 59}, None),
        ({"exp": NOW - 60}, TokenFault.EXPIRED),
        ({"exp": None}, None),
        ({"exp": 0}, TokenFault.EXPIRED),
        ({"nbf": NOW + 60}, None),
        ({"nbf": NOW + 61}, TokenFault.NOT_YET_VALID),
        ({"exp": "1900000000"}, TokenFault.MALFORMED),
        ({"exp": True}, TokenFault.MALFORMED),
        ({"exp": 10**20}, TokenFault.MALFORMED),
        ({"iat": "now"}, TokenFault.MALFORMED),
        ({"aud": ["x", "shop"]}, None),
        ({"aud": "shopping"}, TokenFault.AUDIENCE),
        ({"aud": []}, TokenFault.AUDIENCE),
        ({"aud": None}, TokenFault.AUDIENCE),
        ({"aud": ["shop", 1]}, TokenFault.MALFORMED),
        ({"aud": {"shop": 1}}, TokenFault.MALFORMED),
    ],
)
def test_times_and_audiences(claims: dict[str, object], expected: TokenFault | None) -> None:
    own = signer("ES256")
    keys, text = parse_key_set(jwks(own)), token(own, payload(**claims))
    if expected is None:
        verify(text, keys, ("shop", "other"))
    else:
        assert fault(text, keys, ("shop", "other")) is expected


def test_null_is_no_time() -> None:
    own = signer("ES256")
    text = token(own, {**payload(), "exp": None})
    assert fault(text, parse_key_set(jwks(own))) is TokenFault.MALFORMED


def _changed(algorithm: str, **members: object) -> dict[str, object]:
    return {**signer(algorithm).jwk, **members}


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, "symmetric"),
        ({"kty": "XYZ"}, "'kty'"),
        ({}, "'kty'"),
        ("text", "not an object"),
        (_changed("RS256", d="AQAB"), "private key"),
        (_changed("RS256", use="enc"), "not for signatures"),
        (_changed("RS256", key_ops=["encrypt"]), "not for verifying"),
        (_changed("RS256", key_ops="verify"), "not for verifying"),
        (_changed("RS256", n=b64(b"\xff" * 128)), "2048"),
        (_changed("RS256", n=b64(b"\xff" * 2048)), "8192"),
        (_changed("RS256", e="AQ"), "exponent"),
        (_changed("RS256", e=b64(b"\xff" * 64)), "exponent"),
        (_changed("RS256", n=""), "'n' is missing"),
        (_changed("RS256", n="a b"), "base64url"),
        (_changed("RS256", alg="ES256"), "does not fit"),
        (_changed("RS256", alg=7), "does not fit"),
        (_changed("RS256", kid=7), "'kid'"),
        (_changed("ES256", crv="secp256k1"), "curve"),
        (_changed("ES256", x=b64(b"\x01" * 32)), "no public key"),
        (_changed("ES256", x=b64(b"\x01" * 31)), "length"),
        (_changed("EdDSA", x=b64(b"\x01" * 31)), "no public key"),
        (_changed("EdDSA", crv="X25519"), "curve"),
    ],
)
def test_a_bad_key_is_left_out_and_the_others_count(key: dict[str, object], why: str) -> None:
    good = signer("ES256", "good")
    keys = parse_key_set(jwks(key, good))
    (problem,) = keys.problems
    assert problem.startswith("keys[0] is left out: ")
    assert why in problem
    verify(token(good), keys)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [], "keys": []}', b"\xff", b"x" * 300_000],
)
def test_documents_that_are_no_key_set(text: bytes) -> None:
    with pytest.raises(KeySetError):
        parse_key_set(text)


def test_a_key_set_has_a_largest_number_of_keys() -> None:
    with pytest.raises(KeySetError, match="128"):
        parse_key_set(jwks(*[{"kty": "oct"}] * 129))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_mutation_of_a_token_is_believed_or_raises_anything_else(data: st.DataObject) -> None:
    own = signer("ES256")
    keys = parse_key_set(jwks(own))
    good = _GOOD
    at = data.draw(st.integers(0, len(good) - 1))
    new = data.draw(st.characters())
    if new == good[at]:
        verify(good, keys)
        return
    with pytest.raises(TokenError):
        verify(good[:at] + new + good[at + 1 :], keys)


_GOOD = token(signer("ES256"))


@given(st.binary(max_size=200))
def test_any_bytes_as_a_key_set_are_a_set_or_an_error(data: bytes) -> None:
    try:
        parse_key_set(data)
    except KeySetError:
        return
