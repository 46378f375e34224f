"""Who of several replicas leads: decisions over a Lease, pure.

Kubernetes' own rules (client-go `leaderelection`): whoever holds the Lease renews it; whoever sees
it unchanged for its whole duration may take it. How long that is counts on the own clock alone,
from when a change was *seen*: clocks of replicas may differ by any amount. A leader that cannot
renew gives up well before others may take over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTiming:
    """Seconds; `renew_within_s` < `duration_s`, `retry_s` well below both."""

    duration_s: float = 15.0
    renew_within_s: float = 10.0
    retry_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """Lease.spec, and the resource version it was read at (empty: there is none yet).

    Attributes:
        holder: empty when the last leader let go.
        acquired_at, renewed_at: seconds since the epoch; for people, nobody decides by them.
    """

    holder: str = ""
    duration_s: float = 15.0
    acquired_at: float = 0.0
    renewed_at: float = 0.0
    transitions: int = 0
    version: str = ""


class Candidate:
    """One replica. `now` is monotonic seconds, `wall` seconds since the epoch."""

    def __init__(self, identity: str, timing: LeaseTiming) -> None:
        self._identity = identity
        self._timing = timing
        self._seen: LeaseRecord | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None

    def observe(self, record: LeaseRecord, now: float) -> None:
        """Take note of what the API server says."""
        if record != self._seen:
            self._seen, self._seen_at = record, now
        if record.holder != self._identity:
            self._renewed_at = None

    def bid(self, now: float, wall: float) -> LeaseRecord | None:
        """The record to write: a renewal or an attempt; None while another one leads."""
        seen = self._seen or LeaseRecord()
        duration_s = self._timing.duration_s
        if seen.holder == self._identity:
            return replace(seen, renewed_at=wall, duration_s=duration_s)
        if seen.holder and now < self._seen_at + max(seen.duration_s, duration_s):
            return None
        return LeaseRecord(
            holder=self._identity,
            duration_s=duration_s,
            acquired_at=wall,
            renewed_at=wall,
            transitions=seen.transitions + (1 if seen.version else 0),
            version=seen.version,
        )

    def won(self, record: LeaseRecord, asked_at: float) -> None:
        """The API server took our bid.

        Args:
            asked_at: when it was sent: from then on others may count.
        """
        self._seen, self._seen_at = record, asked_at
        self._renewed_at = asked_at

    def leads(self, now: float) -> bool:
        """Whether we may write now."""
        until = self.leads_until()
        return until is not None and now < until

    def leads_until(self) -> float | None:
        """When we stop leading unless we renew; None if we do not lead."""
        if self._renewed_at is None:
            return None
        return self._renewed_at + self._timing.renew_within_s

    def release(self, wall: float) -> LeaseRecord | None:
        """The record that lets others take over at once; None if we do not hold it."""
        if self._renewed_at is None or self._seen is None:
            return None
        self._renewed_at = None
        return replace(self._seen, holder="", renewed_at=wall, duration_s=1.0)
