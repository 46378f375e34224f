"""What a TrafficPolicy does to a request before any endpoint is chosen: limits and faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from random import Random

from mesh.http1.message import Headers, RequestHead
from mesh.model.identity import SpiffeId
from mesh.resilience.fault import NO_FAULT, FaultDecision, FaultInjector
from mesh.resilience.rate_limit import RateDecision, RateLimiter

# grpc-status of a refused call (gRPC status codes).
_RESOURCE_EXHAUSTED = 8


class HeaderView(Mapping[str, str]):
    """The fields of a head by name, as text; what repeats is joined (RFC 9110 §5.3)."""

    __slots__ = ("_head",)

    def __init__(self, head: RequestHead) -> None:
        self._head = head

    def __getitem__(self, name: str) -> str:
        wanted = name.encode("latin-1")
        if wanted == b"host":
            return self._head.host.decode("latin-1")
        found = [value for field, value in self._head.headers if field == wanted]
        if not found:
            raise KeyError(name)
        return (b"; " if wanted == b"cookie" else b", ").join(found).decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return iter({name.decode("latin-1"): None for name, _ in self._head.headers})

    def __len__(self) -> int:
        return len({name for name, _ in self._head.headers})


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited:
    """The refusal of a limit.

    Attributes:
        limit: its name, for the log.
        fields: of the response, for a client that can wait.
    """

    limit: str
    fields: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedLimiter:
    """A limiter and what people call it."""

    name: str
    limiter: RateLimiter


class Limiters:
    """The limits of one place, with their buckets."""

    __slots__ = ("__weakref__", "items")

    def __init__(self, items: tuple[NamedLimiter, ...]) -> None:
        self.items = items

    def take(
        self, principal: SpiffeId | None, headers: Mapping[str, str], now: float
    ) -> tuple[NamedLimiter, RateDecision] | None:
        """Take a token of every limit; the first without one refuses."""
        identity = str(principal) if principal else None
        for item in self.items:
            decision = item.limiter.decide(identity, headers, now)
            if not decision.allowed:
                return item, decision
        return None


class RequestGate:
    """The limits and faults of one place."""

    __slots__ = ("_faults", "_random", "limiters")

    def __init__(self, limiters: Limiters, faults: FaultInjector | None, random: Random) -> None:
        self.limiters = limiters
        self._faults = faults
        self._random = random

    def limit(
        self, principal: SpiffeId | None, headers: HeaderView, now: float
    ) -> RateLimited | None:
        """Take a token of every limit; the first without one refuses."""
        refused = self.limiters.take(principal, headers, now)
        if refused is None:
            return None
        item, decision = refused
        return RateLimited(limit=item.name, fields=_rate_fields(item.limiter, decision))

    def fault(self, headers: HeaderView) -> FaultDecision:
        """Draw the fault of a request."""
        if self._faults is None:
            return NO_FAULT
        return self._faults.decide(headers, self._random)


def _rate_fields(limiter: RateLimiter, decision: RateDecision) -> Headers:
    wait = b"%d" % max(1, ceil(decision.retry_after_s))
    return [
        (b"retry-after", wait),
        (b"x-ratelimit-limit", b"%d" % limiter.limit.requests),
        (b"x-ratelimit-remaining", b"%d" % decision.remaining),
        (b"x-ratelimit-reset", wait),
    ]


def grpc_fields(code: int, message: str) -> Headers:
    """A gRPC answer without a message (trailers only)."""
    return [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % code),
        (b"grpc-message", message.encode("ascii", "replace")),
    ]


def limited_fields(refused: RateLimited, *, grpc: bool) -> Headers:
    """Headers of the answer to a limited request."""
    if not grpc:
        return refused.fields
    return [*grpc_fields(_RESOURCE_EXHAUSTED, "rate limited"), *refused.fields]
