"""Whether a failed try is made again. Pure.

Two rules stand above every setting: nothing is repeated once a byte of a response went to the
client, and a request that may have been delivered is repeated only if its method is idempotent
(RFC 9110 §9.2.2).
"""

from __future__ import annotations

from random import Random

from mesh.http1.message import ResponseHead
from mesh.model.routing import Retry
from mesh.model.traffic import RetryOn, RetryPolicy
from waypoint.contract import FailureKind
from waypoint.routing.plan import RetryRule

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
MAX_BACKOFF_FACTOR = 10
DEFAULT_BACKOFF_S = 0.025
DEFAULT_RULE = RetryRule()


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


def retries_response(head: ResponseHead, method: bytes, tries: int, rule: RetryRule) -> bool:
    """Say whether a response is dropped for another try."""
    if tries > rule.attempts:
        return False
    if head.status in rule.codes and method in IDEMPOTENT:
        return True
    return bool(rule.grpc_codes) and grpc_status(head) in rule.grpc_codes


def grpc_status(head: ResponseHead) -> int:
    """The status of a call that was answered without a message (trailers only); -1 of others."""
    value = next((value for name, value in head.headers if name == b"grpc-status"), b"")
    return int(value) if value.isdigit() and len(value) < 3 else -1


def retries_timeout(method: bytes, tries: int, rule: RetryRule) -> bool:
    """Say whether another try follows one that took too long."""
    return rule.on_timeout and method in IDEMPOTENT and tries <= rule.attempts


def backoff_s(tries: int, rule: RetryRule, random: Random) -> float:
    """Wait before the next try: at least the rule's own, exponential, jittered, bounded."""
    factor = min((1 << min(tries, 16)) - 1, MAX_BACKOFF_FACTOR)
    wait = rule.backoff_s * (1.0 + random.random() * (factor - 1))
    return wait if rule.max_backoff_s is None else min(wait, rule.max_backoff_s)


def rule_of(route: Retry | None, policy: RetryPolicy | None) -> RetryRule:
    """The rule for a request: the route's own word, else a TrafficPolicy's, else the default."""
    if route is not None:
        return RetryRule(
            attempts=route.attempts,
            codes=frozenset(route.codes),
            backoff_s=DEFAULT_BACKOFF_S if route.backoff_s is None else route.backoff_s,
            on_failure=True,
            on_timeout=True,
        )
    if policy is None:
        return DEFAULT_RULE
    codes = set(policy.codes)
    if RetryOn.GATEWAY_ERROR in policy.on:
        codes |= {502, 503, 504}
    if RetryOn.SERVER_ERROR in policy.on:
        codes |= set(range(500, 600))
    return RetryRule(
        attempts=policy.attempts,
        codes=frozenset(codes),
        grpc_codes=policy.grpc_codes,
        backoff_s=policy.backoff_s,
        max_backoff_s=policy.max_backoff_s,
        on_failure=RetryOn.RESET in policy.on,
        on_timeout=RetryOn.TIMEOUT in policy.on,
    )
