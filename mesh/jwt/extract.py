"""Where tokens sit in a request, and the request without them.

Header names are lower case; a header that came several times is one value, joined by commas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote_plus

from mesh.model.authentication import JwtRule


class Place(StrEnum):
    """Part of a request that may hold a token."""

    HEADER = "header"
    PARAM = "param"
    COOKIE = "cookie"


@dataclass(frozen=True, slots=True)
class Location:
    """One place a rule looks at. `scheme`: `prefix` is an authentication scheme, without case."""

    place: Place
    name: str
    prefix: str = ""
    scheme: bool = False


DEFAULT_LOCATIONS = (
    Location(Place.HEADER, "authorization", "Bearer ", scheme=True),
    Location(Place.PARAM, "access_token"),
)
"""Where a rule that names no place looks (RFC 6750 §2.1 and §2.3; Istio)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """What of a request can hold tokens. `query` is without the question mark, as it travelled."""

    headers: Mapping[str, str]
    query: str = ""


def locations_of(rule: JwtRule) -> tuple[Location, ...]:
    """List where a rule looks."""
    named = (
        *(Location(Place.HEADER, item.name, item.prefix) for item in rule.from_headers),
        *(Location(Place.PARAM, name) for name in rule.from_params),
        *(Location(Place.COOKIE, name) for name in rule.from_cookies),
    )
    return named or DEFAULT_LOCATIONS


def tokens_at(location: Location, request: TokenRequest) -> list[str]:
    """Collect the tokens at a place, those that are there twice too. Empty ones do not count."""
    match location.place:
        case Place.HEADER:
            value = request.headers.get(location.name)
            found = [] if value is None else [_behind_prefix(value.strip(" \t"), location)]
        case Place.PARAM:
            found = [value for name, value in _params(request.query) if name == location.name]
        case Place.COOKIE:
            cookies = _cookies(request.headers.get("cookie", ""))
            found = [value for name, value in cookies if name == location.name]
    return [token for token in found if token]


def _behind_prefix(value: str, location: Location) -> str:
    prefix = location.prefix
    start = value[: len(prefix)]
    if location.scheme:
        # RFC 9110 §11.1: a scheme has no case, and one or more spaces follow it.
        return value[len(prefix) :].lstrip(" ") if start.lower() == prefix.lower() else ""
    return value[len(prefix) :] if start == prefix else ""


def _params(query: str) -> Iterator[tuple[str, str]]:
    for part in query.split("&"):
        name, _, value = part.partition("=")
        yield unquote_plus(name), unquote_plus(value)


def _cookies(header: str) -> Iterator[tuple[str, str]]:
    for part in header.split(";"):
        name, _, value = part.strip(" \t").partition("=")
        yield name, value.strip('"')


def query_without(query: str, names: frozenset[str]) -> str:
    """Drop parameters from a query; the rest stays as it was written."""
    kept = [part for part in query.split("&") if unquote_plus(part.partition("=")[0]) not in names]
    return "&".join(kept)


def cookies_without(header: str, names: frozenset[str]) -> str:
    """Drop cookies from a Cookie header; empty if none is left."""
    parts = [part.strip(" \t") for part in header.split(";")]
    return "; ".join(part for part in parts if part and part.partition("=")[0] not in names)
