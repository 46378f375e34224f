"""Token buckets: how many requests a service, an identity or a header value may send.

A bucket is two numbers; it fills by the clock, without a timer. Buckets of many keys are bounded:
the one that was used longest ago goes first, and a bucket that is full again needs no memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mesh.model.traffic import RateLimit, RateLimitKey
from mesh.resilience.sharing import Sharing, Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDecision:
    """What a limit says.

    Attributes:
        allowed: let the request pass (always, for a limit in shadow mode).
        limited: the bucket was empty; with `allowed`, what shadow mode counts.
        remaining: whole requests left now.
        retry_after_s: until the next request would pass; 0 where one would now.
    """

    allowed: bool
    limited: bool
    remaining: int
    retry_after_s: float


class TokenBucket:
    """`rate` tokens per second, at most `burst`. Starts full."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; False where there is none."""
        tokens = self.tokens(now)
        taken = tokens >= 1
        self._tokens = tokens - 1 if taken else tokens
        # A clock that stands still or steps back gives nothing and takes nothing.
        self._at = max(self._at, now)
        return taken

    def tokens(self, now: float) -> float:
        """Tokens at an instant."""
        return min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)

    def wait_s(self, now: float) -> float:
        """Seconds until a token is there."""
        return max(0.0, (1 - self.tokens(now)) / self._rate)


class RateLimiter:
    """One limit of a policy, with its buckets.

    Args:
        workers: processes that share the limit; each lets its part pass, at least one at once.
        sharing: where they share its buckets instead, which makes it exact; name: of the limit
            among all there are.
    """

    def __init__(
        self,
        limit: RateLimit,
        *,
        workers: int = 1,
        most_keys: int = 10_000,
        sharing: Sharing | None = None,
        name: str = "",
    ) -> None:
        self.limit = limit
        self._rate = limit.requests / limit.per_s / workers
        self._burst = max(1.0, limit.burst / workers)
        self._take: Callable[[int, float], Taken] | None = None
        if sharing is not None:
            self._take = sharing.bucket(limit.requests / limit.per_s, limit.burst)
            self._number_of = sharing.key
        self._name = name
        self._numbers: dict[str, int] = {}
        self.passed = self.limited = 0
        """Requests within and beyond the limit, so far."""
        self._most_keys = most_keys
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def decide(self, identity: str | None, headers: Mapping[str, str], now: float) -> RateDecision:
        """Judge a request of an identity (None = not authenticated: all such share a bucket)."""
        key = self._key(identity, headers)
        if self._take is not None:
            return self._decided(*self._take(self._number(key), now))
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._most_keys:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst, now)
        else:
            self._buckets.move_to_end(key)
        return self._decided(bucket.take(now), int(bucket.tokens(now)), bucket.wait_s(now))

    def _decided(self, taken: bool, remaining: int, wait_s: float) -> RateDecision:
        if taken:
            self.passed += 1
        else:
            self.limited += 1
        return RateDecision(
            allowed=taken or self.limit.shadow,
            limited=not taken,
            remaining=remaining,
            retry_after_s=wait_s,
        )

    def _number(self, key: str) -> int:
        """What the shared bucket of a key is called."""
        number = self._numbers.get(key)
        if number is None:
            if len(self._numbers) >= self._most_keys:
                self._numbers.clear()
            number = self._numbers[key] = self._number_of(f"{self._name} {key}")
        return number

    def _key(self, identity: str | None, headers: Mapping[str, str]) -> str:
        match self.limit.key:
            case RateLimitKey.TOTAL:
                return ""
            case RateLimitKey.IDENTITY:
                return identity or ""
            case RateLimitKey.HEADER:
                return headers.get(self.limit.header, "")
