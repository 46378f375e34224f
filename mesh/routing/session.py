"""Session persistence (GEP-1619): a token that leads a caller back to its endpoint.

The token holds a hash of the endpoint's name and two instants, no address. It is not signed: a
forged one can only choose among the endpoints that the caller's route leads to anyway.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.balance.hashing import hash64, read_cookie
from mesh.model.routing import RouteKey, SessionPersistence, SessionType

_TOKEN = re.compile(r"([0-9a-f]{1,10})-([0-9a-f]{1,10})-([0-9a-f]{16})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A caller's tie to an endpoint; instants are whole seconds of Unix time."""

    endpoint: int
    created_at: int
    used_at: int

    def token(self) -> str:
        """The session as cookie or header value."""
        return f"{self.created_at:x}-{self.used_at:x}-{self.endpoint:016x}"


def session_name(rules: SessionPersistence, route: RouteKey, rule: int) -> str:
    """The name of cookie or header; made from the rule where the object gives none."""
    return rules.name or f"meshnode-{hash64(f'{route}/{rule}'):016x}"


def read_session(
    rules: SessionPersistence, name: str, headers: Mapping[str, str], now: int
) -> Session | None:
    """Read a caller's session; None where there is none, or it is over."""
    if rules.kind is SessionType.COOKIE:
        text = read_cookie(headers.get("cookie", ""), name)
    else:
        text = headers.get(name.lower())
    found = _TOKEN.fullmatch(text or "")
    if found is None:
        return None
    created, used, endpoint = (int(part, 16) for part in found.groups())
    for since, limit in ((created, rules.absolute_timeout_s), (used, rules.idle_timeout_s)):
        # A token from the future was not made here, or the clock jumped: start anew.
        if since > now + 60 or (limit is not None and now - since >= limit):
            return None
    return Session(endpoint=endpoint, created_at=created, used_at=used)


def find_endpoint(session: Session, names: Iterable[str]) -> str | None:
    """Find the endpoint among the names of those that can serve; None = choose another."""
    return next((name for name in names if hash64(name) == session.endpoint), None)


def session_header(
    rules: SessionPersistence,
    name: str,
    endpoint: str,
    now: int,
    session: Session | None = None,
    *,
    path: str = "/",
    secure: bool = False,
) -> tuple[str, str] | None:
    """The response header that ties a caller to an endpoint; None where it need not be sent.

    `session` is what the request brought: its age goes on when the endpoint is the same.
    """
    wanted = hash64(endpoint)
    same = session is not None and session.endpoint == wanted
    if session is not None and same and rules.idle_timeout_s is None:
        return None
    created = session.created_at if session is not None and same else now
    token = Session(endpoint=wanted, created_at=created, used_at=now).token()
    if rules.kind is SessionType.HEADER:
        return name.lower(), token
    parts = [f"{name}={token}", f"Path={path}", "HttpOnly"]
    if rules.permanent and rules.absolute_timeout_s is not None:
        left = max(0, int(created + rules.absolute_timeout_s - now))
        parts.append(f"Max-Age={left}")
    if secure:
        parts.append("Secure")
    return "set-cookie", "; ".join(parts)
