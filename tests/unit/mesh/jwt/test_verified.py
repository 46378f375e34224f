"""Tokens that come again: what is remembered, and for how long."""

from __future__ import annotations

from mesh.jwt.authenticate import Authenticated, Authenticator, Rejected
from mesh.jwt.extract import TokenRequest
from mesh.jwt.keys import KeySet, parse_key_set
from mesh.jwt.verified import VerifiedTokens, digest_of
from mesh.model.authentication import JwtRule
from tests.unit.mesh.jwt.issuer import NOW, bearer, jwks, payload, rule, signer, token

GOOD = signer("ES256", "a")
KEYS = parse_key_set(jwks(GOOD))


def ask(by: Authenticator, text: str, keys: KeySet | None = KEYS, now: float = NOW) -> object:
    def found(_: JwtRule) -> KeySet | None:
        return keys

    return by.authenticate(TokenRequest(headers=bearer(text)), found, now)


def test_a_token_that_comes_again_is_known_until_it_ends() -> None:
    verified = VerifiedTokens()
    by = Authenticator((rule(),), verified=verified)
    text = token(GOOD)
    first = ask(by, text)
    assert isinstance(first, Authenticated)
    assert verified.was_signed(digest_of(text), KEYS)
    assert ask(by, text) == first
    late = ask(by, text, now=NOW + 10_000)
    assert isinstance(late, Rejected)
    assert "expired" in late.detail
    assert len(verified) == 0


def test_a_known_token_costs_no_signature() -> None:
    by = Authenticator((rule(),))
    text = token(GOOD)
    assert isinstance(ask(by, text), Authenticated)
    # The same key set without its keys: only what is remembered can answer.
    object.__setattr__(KEYS, "keys", ())
    try:
        assert isinstance(ask(by, text), Authenticated)
        assert isinstance(ask(by, token(GOOD, payload(sub="bob"))), Rejected)
    finally:
        object.__setattr__(KEYS, "keys", parse_key_set(jwks(GOOD)).keys)


def test_new_keys_make_a_token_be_checked_again() -> None:
    by = Authenticator((rule(),))
    text = token(GOOD)
    assert isinstance(ask(by, text), Authenticated)
    other = parse_key_set(jwks(signer("ES384", "b")))
    assert isinstance(ask(by, text, other), Rejected)
    assert isinstance(ask(by, text, None), Rejected)
    again = parse_key_set(jwks(GOOD))
    assert isinstance(ask(by, text, again), Authenticated)
    assert isinstance(ask(by, text, again), Authenticated)


def test_rules_of_one_issuer_may_differ_in_audience() -> None:
    by = Authenticator((rule(audiences=("other",)), rule(audiences=("shop",))))
    text = token(GOOD)
    for _ in range(3):
        assert isinstance(ask(by, text), Authenticated)


def test_another_signature_is_another_token() -> None:
    by = Authenticator((rule(),))
    text = token(GOOD)
    assert isinstance(ask(by, text), Authenticated)
    forged = text[:-8] + ("A" * 8 if not text.endswith("A" * 8) else "B" * 8)
    assert isinstance(ask(by, forged), Rejected)


def test_it_is_bounded_and_keeps_what_is_used() -> None:
    verified = VerifiedTokens(2)
    by = Authenticator((rule(),), verified=verified)
    one, two, three = (token(GOOD, payload(sub=name)) for name in ("a", "b", "c"))
    for text in (one, two, one, three):
        assert isinstance(ask(by, text), Authenticated)
    assert [verified.was_signed(digest_of(text), KEYS) for text in (one, two, three)] == [
        True,
        False,
        True,
    ]
