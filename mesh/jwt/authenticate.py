"""What the tokens of a request mean under the rules that apply to it.

No token: the request goes on without an identity. A good token: claims and edits of the request.
Anything else is refused with 401. Several different tokens are refused whatever they say, because
which one counts would be a guess (Istio leaves it undefined).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.jwt.errors import TokenError, TokenFault
from mesh.jwt.extract import (
    Location,
    Place,
    TokenRequest,
    cookies_without,
    locations_of,
    query_without,
    tokens_at,
)
from mesh.jwt.keys import KeySet
from mesh.jwt.token import MAX_TOKEN_BYTES, UnverifiedToken, parse_token
from mesh.jwt.verified import VerifiedTokens, digest_of
from mesh.jwt.verify import check_claims, check_signature
from mesh.model.authentication import JwtRule
from mesh.model.claims import ALWAYS_SPLIT, Claims, scalar_text

KeyLookup = Callable[[JwtRule], KeySet | None]
"""The keys of a rule; None while there are none."""

# RFC 9110 §5.5, without obs-text: what a header may hold whichever way it travels on.
_FIELD_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEdits:
    """What changes in a request before it is judged and sent on.

    Attributes:
        remove_headers: lower case, to be done first; set_headers: name and value.
        query: the new query, None = unchanged.
    """

    remove_headers: frozenset[str] = frozenset()
    set_headers: tuple[tuple[str, str], ...] = ()
    query: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Anonymous:
    """There is no token."""

    edits: RequestEdits


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """There is one good token."""

    claims: Claims
    edits: RequestEdits


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The request is to be answered with `status`.

    Attributes:
        detail: for access log and metrics.
        www_authenticate: value of that header (RFC 6750 §3).
        refresh: rules whose keys are worth fetching once more before the answer.
    """

    fault: TokenFault
    detail: str
    www_authenticate: str
    refresh: tuple[JwtRule, ...] = ()
    status: int = 401


Outcome = Anonymous | Authenticated | Rejected


class Authenticator:
    """The merged rules of one destination. Immutable but for its memory of good signatures.

    Args:
        verified: that memory, to share.
    """

    def __init__(
        self,
        rules: Sequence[JwtRule],
        max_token_bytes: int = MAX_TOKEN_BYTES,
        verified: VerifiedTokens | None = None,
    ) -> None:
        self.rules = tuple(dict.fromkeys(rules))
        self._verified = VerifiedTokens() if verified is None else verified
        self._max_token_bytes = max_token_bytes
        looks: dict[Location, list[JwtRule]] = {}
        for rule in self.rules:
            for location in locations_of(rule):
                looks.setdefault(location, []).append(rule)
        self._looks = {location: tuple(rules) for location, rules in looks.items()}
        self._outputs = frozenset(_plain(n) for rule in self.rules for n in _outputs_of(rule))

    def authenticate(self, request: TokenRequest, keys: KeyLookup, now: float) -> Outcome:
        """Judge a request; `now` is seconds since the epoch."""
        found: dict[str, list[Location]] = {}
        for location in self._looks:
            for text in tokens_at(location, request):
                found.setdefault(text, []).append(location)
        if not found:
            return Anonymous(edits=RequestEdits(remove_headers=self._spoofed(request)))
        if len(found) > 1:
            message = "the request holds several tokens"
            return _rejected(TokenError(TokenFault.SEVERAL, message))
        ((text, locations),) = found.items()
        digest = digest_of(text)
        token = self._verified.find(digest)
        if token is not None and not self._names(token, locations, keys, digest):
            token = None  # the cache holds no signature: it may have to be checked again
        try:
            if token is None:
                token = parse_token(text, self._max_token_bytes)
        except TokenError as error:
            return _rejected(error)
        return self._verify(token, locations, request, keys, now, digest)

    def _names(
        self,
        token: UnverifiedToken,
        locations: Sequence[Location],
        keys: KeyLookup,
        digest: bytes,
    ) -> bool:
        """Whether the keys of every rule that may judge the token are those it was checked with."""
        rules = self._active(token, locations)
        found = [keys(rule) for rule in rules]
        return all(item is not None and self._verified.was_signed(digest, item) for item in found)

    def _active(self, token: UnverifiedToken, locations: Sequence[Location]) -> list[JwtRule]:
        active = dict.fromkeys(rule for place in locations for rule in self._looks[place])
        return [rule for rule in active if rule.issuer == token.issuer]

    def _verify(
        self,
        token: UnverifiedToken,
        locations: Sequence[Location],
        request: TokenRequest,
        keys: KeyLookup,
        now: float,
        digest: bytes,
    ) -> Outcome:
        rules = self._active(token, locations)
        refused = TokenError(TokenFault.ISSUER, "the token's issuer is not known here")
        refresh: list[JwtRule] = []
        for rule in rules:
            try:
                self._check(token, rule, keys(rule), now, digest)
            except TokenError as error:
                refused = error
                if error.fault in (TokenFault.UNKNOWN_KEY, TokenFault.NO_KEYS):
                    refresh.append(rule)
            else:
                return self._accepted(token, rule, locations, request)
        self._verified.forget(digest)
        return _rejected(refused, tuple(refresh))

    def _check(
        self, token: UnverifiedToken, rule: JwtRule, keys: KeySet | None, now: float, digest: bytes
    ) -> None:
        if keys is None:
            raise TokenError(TokenFault.NO_KEYS, "the issuer's keys are not available")
        if not self._verified.was_signed(digest, keys):
            check_signature(token, keys)
            self._verified.add(digest, token, keys)
        check_claims(token, rule.audiences, now)

    def _accepted(
        self,
        token: UnverifiedToken,
        rule: JwtRule,
        locations: Sequence[Location],
        request: TokenRequest,
    ) -> Authenticated:
        claims = Claims(
            payload=token.payload, space_delimited=ALWAYS_SPLIT.union(rule.space_delimited)
        )
        edits = RequestEdits()
        if not rule.forward_original_token:
            edits = _without_token(request, locations)
        return Authenticated(
            claims=claims,
            edits=RequestEdits(
                remove_headers=edits.remove_headers | self._spoofed(request),
                set_headers=(*edits.set_headers, *_output(token, claims, rule)),
                query=edits.query,
            ),
        )

    def _spoofed(self, request: TokenRequest) -> frozenset[str]:
        """Headers that only we may set; what the client sent is never believed."""
        if not self._outputs:
            return frozenset()
        return frozenset(name for name in request.headers if _plain(name) in self._outputs)


def _plain(name: str) -> str:
    """Many applications (CGI, WSGI) take `x_user` and `x-user` for the same header."""
    return name.replace("_", "-")


def _outputs_of(rule: JwtRule) -> list[str]:
    names = [item.header for item in rule.output_claims]
    return [*names, rule.output_payload_to_header] if rule.output_payload_to_header else names


def _without_token(request: TokenRequest, locations: Sequence[Location]) -> RequestEdits:
    by_place = {
        place: frozenset(item.name for item in locations if item.place is place) for place in Place
    }
    removed, replaced = set(by_place[Place.HEADER]), []
    if by_place[Place.COOKIE]:
        cookies = cookies_without(request.headers.get("cookie", ""), by_place[Place.COOKIE])
        removed.add("cookie")
        replaced = [("cookie", cookies)] if cookies else []
    query = None
    if by_place[Place.PARAM]:
        query = query_without(request.query, by_place[Place.PARAM])
    return RequestEdits(remove_headers=frozenset(removed), set_headers=tuple(replaced), query=query)


def _output(token: UnverifiedToken, claims: Claims, rule: JwtRule) -> list[tuple[str, str]]:
    headers = []
    if rule.output_payload_to_header:
        headers.append((rule.output_payload_to_header, token.payload_text))
    for item in rule.output_claims:
        text = scalar_text(claims.at(item.claim))
        # A claim with a line break or the like would write headers of its own.
        if text is not None and _FIELD_VALUE.fullmatch(text):
            headers.append((item.header, text))
    return headers


def _rejected(error: TokenError, refresh: tuple[JwtRule, ...] = ()) -> Rejected:
    fault = "invalid_request" if error.fault is TokenFault.SEVERAL else "invalid_token"
    return Rejected(
        fault=error.fault,
        detail=str(error),
        www_authenticate=f'Bearer error="{fault}", error_description="{error}"',
        refresh=refresh,
    )
