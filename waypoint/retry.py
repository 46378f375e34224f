"""Whether a failed try is made again. Pure.

Two rules stand above every setting: nothing is repeated once a byte of a response went to the
client, and a request that may have been delivered is repeated only if its method is idempotent
(RFC 9110 §9.2.2).
"""

from __future__ import annotations

from random import Random

from waypoint.contract import FailureKind
from waypoint.plan import RetryRule

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
MAX_BACKOFF_FACTOR = 10


def retries_failure(kind: FailureKind, method: bytes, tries: int, rule: RetryRule) -> bool:
    """Say whether another try follows a failure; `tries` were made."""
    if kind is FailureKind.REFUSED:
        return False
    if kind is FailureKind.NEVER_SENT:
        return tries <= rule.attempts
    if method not in IDEMPOTENT:
        return False
    if kind is FailureKind.NO_ANSWER_REUSED:
        return tries <= max(1, rule.attempts)
    return rule.on_failure and tries <= rule.attempts


def retries_status(status: int, method: bytes, tries: int, rule: RetryRule) -> bool:
    """Say whether a response of this status is dropped for another try."""
    return status in rule.codes and method in IDEMPOTENT and tries <= rule.attempts


def retries_timeout(method: bytes, tries: int, rule: RetryRule) -> bool:
    """Say whether another try follows one that took too long."""
    return rule.on_failure and method in IDEMPOTENT and tries <= rule.attempts


def backoff_s(tries: int, rule: RetryRule, random: Random) -> float:
    """Wait before the next try: at least the rule's own, exponential, jittered, bounded."""
    factor = min((1 << min(tries, 16)) - 1, MAX_BACKOFF_FACTOR)
    return rule.backoff_s * (1.0 + random.random() * (factor - 1))
