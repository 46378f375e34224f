"""One source of keys over time: a state machine without clock, randomness or I/O.

Inline keys never change. Others are fetched at once, then every `REFRESH_S`; a failure keeps the
last good keys for as long as it takes, and is tried again with growing pauses. A token with an
unknown key may force a fetch, but not more often than every `FORCED_S`, whoever sends such tokens.
Discovery (OpenID Connect Discovery §4) is one more fetch in front.

`now` is monotonic seconds, `jitter` a random number in [0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mesh.jwt.encoding import EncodingError, parse_json_object
from mesh.jwt.errors import KeySetError
from mesh.jwt.keys import MAX_KEY_SET_BYTES, KeySet, parse_key_set
from mesh.model.authentication import JwtRule

REFRESH_S = 20 * 60.0
"""Istiod's interval; providers publish new keys hours before they sign with them."""
FORCED_S = 10.0
FIRST_RETRY_S = 1.0
"""Envoy retries a failed fetch after a second."""
LAST_RETRY_S = 5 * 60.0
WELL_KNOWN = "/.well-known/openid-configuration"


class LocationKind(StrEnum):
    """Where keys come from."""

    INLINE = "inline"
    URI = "jwksUri"
    DISCOVERY = "discovery"


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksLocation:
    """A place that keys come from; rules that name the same one share its keys.

    Attributes:
        text: the key set itself, its URL, or the issuer.
        timeout_s: seconds a fetch may take; allow_http: it need not be https.
    """

    kind: LocationKind
    text: str
    timeout_s: float = 0.0
    allow_http: bool = False


def location_of(rule: JwtRule) -> JwksLocation:
    """Say where the keys of a rule come from."""
    if rule.jwks:
        return JwksLocation(kind=LocationKind.INLINE, text=rule.jwks)
    uri = bool(rule.jwks_uri)
    return JwksLocation(
        kind=LocationKind.URI if uri else LocationKind.DISCOVERY,
        text=rule.jwks_uri if uri else rule.issuer,
        timeout_s=rule.timeout_s,
        allow_http=rule.allow_http,
    )


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get this URL; report by `fetched` or `failed`, with this very object."""

    url: str
    number: int
    discovery: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksStatus:
    """How a source does, for people.

    Attributes:
        age_s: seconds since the keys were fetched; None while there are none.
        error: why the last fetch failed, empty if it did not.
        problems: keys that are left out.
    """

    location: JwksLocation
    keys: int
    age_s: float | None
    failures: int
    error: str
    problems: tuple[str, ...]


class JwksSource:
    """The keys of one location. At most one fetch is under way."""

    def __init__(self, location: JwksLocation, now: float) -> None:
        self.location = location
        self._keys: KeySet | None = None
        self._fetched_at = now
        self._attempt_at = now
        self._due: float | None = now
        self._pending: Fetch | None = None
        self._count = 0
        self._failures = 0
        self._error = ""
        if location.kind is LocationKind.INLINE:
            self._due = None
            self._take(location.text.encode(), now)

    @property
    def keys(self) -> KeySet | None:
        """The last good keys; None while there never were any."""
        return self._keys

    @property
    def is_fetching(self) -> bool:
        """Whether a fetch is under way."""
        return self._pending is not None

    def next_deadline(self) -> float | None:
        """Return when `on_deadline` wants to be called; None while a fetch is under way."""
        return None if self._pending is not None else self._due

    def on_deadline(self, now: float) -> Fetch | None:
        """Begin a fetch if one is due."""
        if self._pending is not None or self._due is None or now < self._due:
            return None
        return self._begin(now)

    def wants_refresh(self, now: float) -> Fetch | None:
        """Begin a fetch because a token names a key that is not there, if that is allowed."""
        if self._due is None or self._pending is not None or now < self._attempt_at + FORCED_S:
            return None
        return self._begin(now)

    def fetched(self, fetch: Fetch, body: bytes, now: float, jitter: float) -> Fetch | None:
        """Take the answer of a fetch; may want one more. Late answers are ignored."""
        if fetch != self._pending:
            return None
        if fetch.discovery:
            try:
                url = _keys_url(body, self.location)
            except KeySetError as error:
                self._fail(str(error), now, jitter)
                return None
            return self._request(url)
        self._pending = None
        try:
            self._take(body, now)
        except KeySetError as error:
            self._fail(str(error), now, jitter)
            return None
        self._failures, self._error = 0, ""
        # Spread, so that many waypoints do not ask at the same instant.
        self._due = now + REFRESH_S * (1 - jitter / 10)
        return None

    def failed(self, fetch: Fetch, error: str, now: float, jitter: float) -> None:
        """Note that a fetch failed."""
        if fetch == self._pending:
            self._fail(error, now, jitter)

    def status(self, now: float) -> JwksStatus:
        """Describe the source."""
        keys = self._keys
        return JwksStatus(
            location=self.location,
            keys=len(keys.keys) if keys else 0,
            age_s=now - self._fetched_at if keys else None,
            failures=self._failures,
            error=self._error,
            problems=keys.problems if keys else (),
        )

    def _begin(self, now: float) -> Fetch:
        self._attempt_at = now
        if self.location.kind is LocationKind.DISCOVERY:
            return self._request(self.location.text.rstrip("/") + WELL_KNOWN, discovery=True)
        return self._request(self.location.text)

    def _request(self, url: str, *, discovery: bool = False) -> Fetch:
        self._count += 1
        self._pending = Fetch(url, self._count, discovery)
        return self._pending

    def _take(self, body: bytes, now: float) -> None:
        keys = parse_key_set(body)
        if not keys.keys and self.location.kind is not LocationKind.INLINE:
            # More likely a broken answer than an issuer that withdraws everything.
            raise KeySetError("the key set holds no usable key")
        self._keys, self._fetched_at = keys, now

    def _fail(self, error: str, now: float, jitter: float) -> None:
        self._pending = None
        self._error = error
        pause = min(FIRST_RETRY_S * 2.0 ** min(self._failures, 20), LAST_RETRY_S)
        self._failures += 1
        self._due = now + pause * (1 + jitter / 2)


def _keys_url(body: bytes, location: JwksLocation) -> str:
    """Read `jwks_uri` of a provider's metadata (OpenID Connect Discovery §3 and §4.3)."""
    if len(body) > MAX_KEY_SET_BYTES:
        raise KeySetError("the provider's metadata are too large")
    try:
        metadata = parse_json_object(body)
    except EncodingError as error:
        raise KeySetError(f"the provider's metadata are {error}") from error
    if metadata.get("issuer") != location.text:
        raise KeySetError("the provider's metadata name another issuer")
    url = metadata.get("jwks_uri")
    schemes = ("https://", "http://") if location.allow_http else ("https://",)
    if not isinstance(url, str) or not url.startswith(schemes):
        raise KeySetError("the provider's metadata name no https jwks_uri")
    return url
