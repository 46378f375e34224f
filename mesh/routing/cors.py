"""Cross-origin requests answered for the application (Gateway API HTTPCORSFilter, Fetch §3.2)."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from mesh.model.routing import Cors
from mesh.routing.message import RequestHead, ResponseHead, fold_headers

_STATUS = 204
_OWNED = (
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-expose-headers",
)


def is_preflight(head: RequestHead) -> bool:
    """Say whether a request asks for permission: OPTIONS with an origin and a method."""
    if head.method != "OPTIONS":
        return False
    names = {name for name, _ in head.headers}
    return "origin" in names and "access-control-request-method" in names


def allows_origin(cors: Cors, origin: str) -> bool:
    """Say whether an origin is allowed.

    Scheme and host have no case; `*` in a host stands for any labels, dots included.
    """
    return any(_pattern(item).fullmatch(origin.lower()) for item in cors.allow_origins)


@lru_cache(maxsize=4096)
def _pattern(allowed: str) -> re.Pattern[str]:
    if allowed == "*":
        return re.compile(r".*", re.DOTALL)
    # One wildcard, at the left of the host: linear time whatever the origin.
    host, star, rest = allowed.lower().partition("*")
    port = ""
    if star and rest.endswith(":*"):
        rest, port = rest[:-2], r"(?::[0-9]{1,5})?"
    middle = r"[^/]+" if star else ""
    return re.compile(re.escape(host) + middle + re.escape(rest) + port)


def answer_preflight(head: RequestHead, cors: Cors) -> ResponseHead:
    """Answer a preflight; what is not allowed gets no header, and the browser refuses."""
    asked = fold_headers(head.headers)
    origin = asked.get("origin", "")
    if not allows_origin(cors, origin):
        return ResponseHead(status=_STATUS, headers=(("vary", "origin"),))
    headers = _origin_headers(cors, origin)
    methods = _allowed(cors, cors.allow_methods, asked.get("access-control-request-method"))
    if methods:
        headers.append(("access-control-allow-methods", methods))
    names = _allowed(cors, cors.allow_headers, asked.get("access-control-request-headers"))
    if names:
        headers.append(("access-control-allow-headers", names))
    headers.append(("access-control-max-age", str(cors.max_age_s)))
    return ResponseHead(status=_STATUS, headers=tuple(headers))


def _allowed(cors: Cors, configured: tuple[str, ...], asked: str | None) -> str:
    """Write an allow list; nothing where the request did not ask.

    `*` means itself only without credentials, so with them what was asked is named.
    """
    if not configured or not asked:
        return ""
    if "*" in configured:
        return asked if cors.allow_credentials else "*"
    return ", ".join(configured)


def _origin_headers(cors: Cors, origin: str) -> list[tuple[str, str]]:
    anyone = "*" in cors.allow_origins and not cors.allow_credentials
    headers = [("access-control-allow-origin", "*" if anyone else origin)]
    if not anyone:
        headers.append(("vary", "origin"))
    if cors.allow_credentials:
        headers.append(("access-control-allow-credentials", "true"))
    return headers


def decorate(response: ResponseHead, request: RequestHead, cors: Cors) -> ResponseHead:
    """Add the headers of an actual response; the application's own are replaced."""
    origin = fold_headers(request.headers).get("origin")
    if origin is None:
        return response
    kept = tuple(item for item in response.headers if item[0] not in _OWNED)
    if not allows_origin(cors, origin):
        return replace(response, headers=(*kept, ("vary", "origin")))
    headers = _origin_headers(cors, origin)
    exposed = ", ".join(cors.expose_headers)
    if exposed and not (exposed == "*" and cors.allow_credentials):
        headers.append(("access-control-expose-headers", exposed))
    return replace(response, headers=(*kept, *headers))
