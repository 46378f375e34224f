"""Requests with no token, one, or several, and what becomes of the request."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from mesh.jwt.authenticate import Anonymous, Authenticated, Authenticator, Outcome, Rejected
from mesh.jwt.errors import TokenFault
from mesh.jwt.extract import TokenRequest
from mesh.jwt.keys import KeySet, parse_key_set
from mesh.model.authentication import ClaimToHeader, JwtRule, TokenHeader
from tests.unit.mesh.jwt.issuer import NOW, b64, bearer, jwks, payload, rule, signer, token

KEY = signer("ES256", "one")
KEYS = parse_key_set(jwks(KEY))
GOOD = token(KEY)


def judge(
    *rules: JwtRule,
    headers: Mapping[str, str] | None = None,
    query: str = "",
    keys: KeySet | None = KEYS,
) -> Outcome:
    request = TokenRequest(headers=headers or {}, query=query)
    return Authenticator(rules).authenticate(request, lambda _: keys, NOW)


def accepted(outcome: Outcome) -> Authenticated:
    assert isinstance(outcome, Authenticated), outcome
    return outcome


def refused(outcome: Outcome) -> Rejected:
    assert isinstance(outcome, Rejected), outcome
    assert outcome.status == 401
    assert outcome.www_authenticate.startswith("Bearer error=")
    return outcome


def test_no_token_passes_without_identity() -> None:
    assert isinstance(judge(rule()), Anonymous)
    assert isinstance(judge(rule(), headers={"authorization": "Basic YTpi"}), Anonymous)
    assert isinstance(judge(rule(), headers={"authorization": "Bearer "}), Anonymous)
    assert isinstance(judge(headers=bearer(GOOD)), Anonymous), "nobody asks for tokens"


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_a_bearer_token_is_verified_and_stripped(scheme: str) -> None:
    found = accepted(judge(rule(), headers={"authorization": f"{scheme}{GOOD}"}))
    assert found.claims.principal == "https://id.example/ann"
    assert found.edits.remove_headers == {"authorization"}
    assert found.edits.set_headers == ()


def test_the_token_may_go_on() -> None:
    found = accepted(judge(rule(forward_original_token=True), headers=bearer(GOOD)))
    assert found.edits.remove_headers == frozenset()


def test_other_places() -> None:
    own = rule(
        from_headers=(TokenHeader(name="x-token", prefix="tok "), TokenHeader(name="x-raw")),
        from_params=("jwt",),
        from_cookies=("session",),
    )
    assert isinstance(judge(own, headers=bearer(GOOD)), Anonymous), "defaults no longer count"
    assert isinstance(judge(own, headers={"x-token": f"Tok {GOOD}"}), Anonymous)
    for name, value in (("x-token", f"tok {GOOD}"), ("x-raw", GOOD)):
        found = accepted(judge(own, headers={name: value}))
        assert found.edits.remove_headers == {name}
    found = accepted(judge(own, query=f"a=1&jwt={GOOD.replace('.', '%2E')}&b=%20"))
    assert (found.edits.query, found.edits.remove_headers) == ("a=1&b=%20", frozenset())
    found = accepted(judge(own, headers={"cookie": f"a=b; session={GOOD}; c=d"}))
    assert found.edits.remove_headers == {"cookie"}
    assert found.edits.set_headers == (("cookie", "a=b; c=d"),)
    found = accepted(judge(own, headers={"cookie": f"session={GOOD}"}))
    assert found.edits.set_headers == ()


def test_the_query_parameter_is_a_default_too() -> None:
    found = accepted(judge(rule(), query=f"access_token={GOOD}"))
    assert found.edits.query == ""


def test_several_tokens_are_refused_good_or_not() -> None:
    other = token(KEY, payload(sub="eve"))
    for headers, query in (
        (bearer(GOOD), f"access_token={other}"),
        (bearer(GOOD), "access_token=x"),
        ({}, f"access_token={GOOD}&access_token={other}"),
    ):
        found = refused(judge(rule(), headers=headers, query=query))
        assert found.fault is TokenFault.SEVERAL
    twice = accepted(judge(rule(), headers=bearer(GOOD), query=f"access_token={GOOD}"))
    assert twice.edits.remove_headers == {"authorization"}
    assert twice.edits.query == ""
    merged = {"authorization": f"Bearer {GOOD},Bearer {other}"}
    assert refused(judge(rule(), headers=merged)).fault is TokenFault.MALFORMED


def test_an_invalid_token_is_refused_though_a_token_is_not_demanded() -> None:
    found = refused(judge(rule(), headers=bearer("x.y.z")))
    assert found.fault is TokenFault.MALFORMED
    assert found.refresh == ()
    expired = refused(judge(rule(), headers=bearer(token(KEY, payload(exp=1)))))
    assert expired.detail == "the token has expired"
    assert expired.www_authenticate == (
        'Bearer error="invalid_token", error_description="the token has expired"'
    )


@pytest.mark.parametrize("issuer", ["https://id.example/", "https://ID.example", "", None])
def test_the_issuer_is_exact(issuer: str | None) -> None:
    found = refused(judge(rule(), headers=bearer(token(KEY, payload(iss=issuer)))))
    assert found.fault is TokenFault.ISSUER


def test_rules_merge_and_each_issuer_has_its_keys() -> None:
    far = signer("RS256", "far")
    one, two = rule(), rule(issuer="https://far.example")
    text = token(far, payload(iss="https://far.example"))
    sets = {one.issuer: KEYS, two.issuer: parse_key_set(jwks(far))}
    both = Authenticator((one, two, one))
    assert len(both.rules) == 2
    for good in (text, GOOD):
        request = TokenRequest(headers=bearer(good))
        accepted(both.authenticate(request, lambda item: sets[item.issuer], NOW))
    stolen = token(far, payload())  # Signed by the other issuer's key.
    request = TokenRequest(headers=bearer(stolen))
    outcome = both.authenticate(request, lambda item: sets[item.issuer], NOW)
    assert refused(outcome).fault is TokenFault.UNKNOWN_KEY


def test_of_rules_with_one_issuer_any_may_accept() -> None:
    strict, wide = rule(audiences=("bank",)), rule(audiences=("shop",))
    accepted(judge(strict, wide, headers=bearer(GOOD)))
    assert refused(judge(strict, headers=bearer(GOOD))).fault is TokenFault.AUDIENCE


def test_a_rule_counts_only_where_it_looks() -> None:
    cookie = rule(issuer="https://far.example", from_cookies=("session",))
    far = token(KEY, payload(iss="https://far.example"))
    assert refused(judge(rule(), cookie, headers=bearer(far))).fault is TokenFault.ISSUER


def test_missing_keys_and_unknown_keys_ask_for_a_refresh() -> None:
    own = rule()
    found = refused(judge(own, headers=bearer(GOOD), keys=None))
    assert (found.fault, found.refresh) == (TokenFault.NO_KEYS, (own,))
    new = token(signer("ES256", "two"))
    found = refused(judge(own, headers=bearer(new)))
    assert (found.fault, found.refresh) == (TokenFault.UNKNOWN_KEY, (own,))


def test_claims_become_headers_and_spoofed_ones_go() -> None:
    own = rule(
        output_payload_to_header="x-payload",
        output_claims=(
            ClaimToHeader(header="x-sub", claim=("sub",)),
            ClaimToHeader(header="x-tenant", claim=("realm", "tenant")),
            ClaimToHeader(header="x-admin", claim=("admin",)),
            ClaimToHeader(header="x-level", claim=("level",)),
            ClaimToHeader(header="x-list", claim=("roles",)),
            ClaimToHeader(header="x-evil", claim=("evil",)),
            ClaimToHeader(header="x-gone", claim=("gone", "way")),
        ),
    )
    claims = payload(
        realm={"tenant": "a b"}, admin=True, level=7, roles=["x"], evil="a\r\nx-sub: root", gone="x"
    )
    spoofed = {"x-gone": "1", "x-evil": "1", "x-sub": "root", "x-mine": "1"}
    found = accepted(judge(own, headers=bearer(token(KEY, claims), **spoofed)))
    assert dict(found.edits.set_headers) == {
        "x-payload": b64(json.dumps(claims).encode()),
        "x-sub": "ann",
        "x-tenant": "a b",
        "x-admin": "true",
        "x-level": "7",
    }
    assert found.edits.remove_headers == {"authorization", "x-gone", "x-evil", "x-sub"}
    nobody = judge(own, headers=spoofed)
    assert isinstance(nobody, Anonymous)
    assert nobody.edits.remove_headers == {"x-gone", "x-evil", "x-sub"}


def test_claims_as_policies_read_them() -> None:
    claims = accepted(
        judge(
            rule(space_delimited=("groups",)),
            headers=bearer(
                token(
                    KEY,
                    payload(scope="read write", groups="a b", note="a b", azp="web", n={"m": [1]}),
                )
            ),
        )
    ).claims
    assert claims.texts(("scope",)) == ("read", "write")
    assert claims.texts(("groups",)) == ("a", "b")
    assert claims.texts(("note",)) == ("a b",)
    assert claims.texts(("n", "m")) == ("1",)
    assert claims.texts(("n", "x", "y")) == ()
    assert (claims.presenter, claims.audiences) == ("web", ("shop",))
    anonymous = accepted(judge(rule(), headers=bearer(token(KEY, payload(sub=None))))).claims
    assert anonymous.principal == ""


def test_a_claims_header_cannot_be_spoofed_by_another_spelling() -> None:
    by = Authenticator((rule(output_claims=(ClaimToHeader(header="x-user", claim=("sub",)),)),))
    request = TokenRequest(headers={"x_user": "root", "x-user": "root", "x-other": "1"})
    outcome = by.authenticate(request, lambda _: None, NOW)
    assert isinstance(outcome, Anonymous)
    assert outcome.edits.remove_headers == {"x_user", "x-user"}
