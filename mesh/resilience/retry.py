"""Whether a failed try is repeated, and after how long. Nothing is counted here.

Three rules stand above every setting: no retry after a byte of a response went to the caller;
none where the request's body is gone; none of a request that may have been delivered, unless its
method is idempotent (RFC 9110 §9.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from mesh.model.routing import Retry

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# Envoy's base and cap where the route says nothing: 25 ms, doubled up to ten times that.
BASE_S = 0.025
_CAP = 10


class TryEnd(StrEnum):
    """How a try ended."""

    NOT_SENT = "not_sent"
    """Connect failed, or the peer said that it did not process the stream (RFC 9113 §8.7)."""
    RESET = "reset"
    """The connection or stream broke before a response; the peer may have acted."""
    TIMED_OUT = "timed_out"
    """The backend request timeout passed."""
    STATUS = "status"
    """A response came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTry:
    """What is known when a try has failed.

    Attributes:
        retries: how many retries there have been.
        status: of the response, where one came.
        response_started: bytes of a response went to the caller.
        replayable: the whole request is still here.
        reused: the connection had served requests before.
    """

    end: TryEnd
    method: str
    retries: int
    status: int = 0
    response_started: bool = False
    replayable: bool = True
    reused: bool = False


def may_retry(failed: FailedTry, retry: Retry | None) -> bool:
    """Say whether to try again, the budget aside. `retry` None = the route has no retry."""
    if failed.response_started or not failed.replayable:
        return False
    if failed.end is not TryEnd.NOT_SENT and failed.method not in IDEMPOTENT:
        return False
    if retry is None:
        return failed.retries == 0 and _is_harmless(failed)
    if failed.retries >= retry.attempts:
        return False
    # A failed connection and a try that took too long are repeated whatever the codes say.
    return failed.end is not TryEnd.STATUS or failed.status in retry.codes


def _is_harmless(failed: FailedTry) -> bool:
    """The default: never sent, or a kept-alive connection that was being closed meanwhile."""
    if failed.end is TryEnd.NOT_SENT:
        return True
    return failed.end is TryEnd.RESET and failed.reused


def backoff_s(retry: Retry | None, number: int, random: Random) -> float:
    """Wait before retry `number` (1 = first): at least the route's backoff, growing, jittered."""
    least = 0.0 if retry is None or retry.backoff_s is None else retry.backoff_s
    base = least or BASE_S
    step: float = base * min(2 ** min(number, _CAP) - 1, _CAP)
    return least + random.random() * step
