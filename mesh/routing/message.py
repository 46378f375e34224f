"""Heads of requests and responses, as routing and filters see them.

Header names are in lower case; text is the wire's bytes read as Latin-1 (RFC 9110 §5.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote_plus

from mesh.model.workload import ServiceKey

Fields: TypeAlias = tuple[tuple[str, str], ...]
"""Headers in order, repeated names as they came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """A request without its body.

    Attributes:
        path: normalised, without query; `*` for `OPTIONS *`.
        query: what follows the `?`, None where there is none.
    """

    method: str
    path: str
    authority: str
    scheme: str = "http"
    query: str | None = None
    headers: Fields = ()

    @property
    def target(self) -> str:
        """Path and query, as the request line has them."""
        return self.path if self.query is None else f"{self.path}?{self.query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """A response without its body."""

    status: int
    headers: Fields = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What decides the route.

    Attributes:
        service, port: what the caller asked for, by address; the Host header has no say.
        caller_namespace: from the caller's verified identity; None without one.
    """

    service: ServiceKey
    port: int
    caller_namespace: str | None
    head: RequestHead


def fold_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name; repeated ones joined by commas (RFC 9110 §5.3).

    Cookie, which HTTP/2 may split, is joined by semicolons (RFC 9113 §8.2.3).
    """
    folded: dict[str, str] = {}
    for name, value in headers:
        if name in folded:
            value = f"{folded[name]}{'; ' if name == 'cookie' else ','}{value}"
        folded[name] = value
    return folded


def first_values(query: str | None) -> Mapping[str, str]:
    """Query parameters by name, decoded; of a repeated one the first (Gateway API).

    A plus sign is a space, as in forms: an application reads it so.
    """
    values: dict[str, str] = {}
    for part in (query or "").split("&"):
        if part:
            name, _, value = part.partition("=")
            values.setdefault(unquote_plus(name), unquote_plus(value))
    return values
