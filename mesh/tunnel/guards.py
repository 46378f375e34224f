"""Limits on what a peer may make us do, and whether it is still there. No I/O, no clock."""

from __future__ import annotations

from enum import Enum

RESET_BURST = 1000
RESETS_PER_S = 200.0
"""RST_STREAM frames a peer may send: above what 200 aborted connections per second need, far below
a rapid-reset flood (CVE-2023-44487)."""

MAX_BLOCKED_CONTROL_BYTES = 1024 * 1024
"""Bytes other than payload accepted from a peer that itself reads nothing: answers to them (PING
and SETTINGS acknowledgements) pile up in our memory."""


class TokenBucket:
    """Allows `burst` at once and `rate_per_s` in the long run."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, burst: float, rate_per_s: float, now: float) -> None:
        self._burst = burst
        self._rate = rate_per_s
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; False if there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Check(Enum):
    """What `Liveness.check` asks for."""

    WAIT = "wait"
    PING = "ping"
    RECHECK = "recheck"
    """The deadline passed: look once more after what the kernel holds has been read. A process
    that was stopped itself must not take its peers for dead."""
    LOST = "lost"


class Liveness:
    """PING after `interval_s` of silence, lost after `timeout_s` more."""

    __slots__ = ("_heard_at", "_interval_s", "_pinged_at", "_rechecked", "_timeout_s")

    def __init__(self, interval_s: float, timeout_s: float, now: float) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._heard_at = now
        self._pinged_at: float | None = None
        self._rechecked = False

    def heard(self, now: float) -> None:
        """Any byte of the peer is a sign of life."""
        self._heard_at = now
        self._pinged_at = None
        self._rechecked = False

    def next_check(self) -> float:
        if self._pinged_at is None:
            return self._heard_at + self._interval_s
        return self._pinged_at + self._timeout_s

    def check(self, now: float) -> Check:
        if now < self.next_check():
            return Check.WAIT
        if self._pinged_at is None:
            self._pinged_at = now
            return Check.PING
        if not self._rechecked:
            self._rechecked = True
            return Check.RECHECK
        return Check.LOST
