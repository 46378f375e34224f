"""What ties a request to an endpoint: the hash of a policy's keys, and a session's token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from mesh.balance.hashing import hash64, request_hash
from mesh.http1.message import Headers
from mesh.model.traffic import HashKey, HashSource
from mesh.routing.session import Session, read_session, session_header
from waypoint.resilience.request_gate import HeaderView
from waypoint.upstream.target import Target

if TYPE_CHECKING:
    from waypoint.exchange.exchange import Exchange
    from waypoint.resilience.protection import Protection, Sticky


class Affinity:
    """The ties of one request.

    Attributes:
        key: its hash, if the policy balances by hash and the request has what is hashed.
        wanted: the endpoint of its session, if that is one of the service's.
    """

    __slots__ = ("_cookies", "_now", "_protection", "_session", "key", "wanted")

    def __init__(self, protection: Protection, now: int) -> None:
        self._protection = protection
        self._now = now
        self._cookies: Headers = []
        self._session: Session | None = None
        self.key: int | None = None
        self.wanted: Target | None = None

    @classmethod
    def of(
        cls, protection: Protection, exchange: Exchange, epoch_s: Callable[[], float]
    ) -> Affinity | None:
        """The ties of a request; None where the policy knows none."""
        keys = protection.cluster.rules.load_balancing.hash_keys
        if not keys and protection.sticky is None:
            return None
        made = cls(protection, int(epoch_s()))
        headers = HeaderView(exchange.head)
        if keys:
            made._hash(keys, headers, exchange)
        if protection.sticky is not None:
            made._find(protection.sticky, headers)
        return made

    def _hash(self, keys: tuple[HashKey, ...], headers: HeaderView, exchange: Exchange) -> None:
        query: dict[str, str] = {}
        if any(key.source is HashSource.QUERY for key in keys):
            text = exchange.head.target.partition(b"?")[2].decode("latin-1")
            for name, value in parse_qsl(text, keep_blank_values=True):
                query.setdefault(name, value)
        source = str(exchange.origin.client.ip)
        self.key = request_hash(keys, headers, query, source)
        made = next((key for key in keys if key.ttl_s is not None), None)
        if self.key is not None or made is None or made.ttl_s is None:
            return
        # Nothing to hash on yet: the cookie is made here, and the client brings it from now on.
        value = f"{hash64(exchange.seen.request_id.decode('latin-1')):016x}"
        self.key = request_hash([made], {"cookie": f"{made.name}={value}"}, {}, "")
        cookie = f"{made.name}={value}; Path={made.path}; Max-Age={int(made.ttl_s)}; HttpOnly"
        self._cookies.append((b"set-cookie", cookie.encode("latin-1")))

    def _find(self, sticky: Sticky, headers: HeaderView) -> None:
        session = read_session(sticky.rules, sticky.name, headers, self._now)
        if session is not None:
            self._session = session
            self.wanted = self._protection.cluster.find(session.endpoint)

    def fields(self, target: Target) -> Headers:
        """Response headers that keep the ties."""
        sticky = self._protection.sticky
        if sticky is None:
            return self._cookies
        name = self._protection.cluster.name_of(target)
        made = session_header(sticky.rules, sticky.name, name, self._now, self._session)
        if made is None or not name:
            return self._cookies
        return [*self._cookies, (made[0].encode("latin-1"), made[1].encode("latin-1"))]
