"""When certificates are fetched, renewed, given up and forgotten: the pure core of a store.

Facts come in (wanted identities, fetched, failed, time), actions come out. `now` is seconds
since the epoch, as certificates count. A certificate is renewed at half its life with jitter;
the old one serves until it expires. A failed fetch is tried again with back-off, the last try
of an old certificate's life falls on its expiry, and tries go on after it: fail closed, not
for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from mesh.model.identity import SpiffeId

MAX_CONCURRENT = 8
"""Fetches under way at once; what Istio's ztunnel does, kind to a CA that just came back."""

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 150.0
BACKOFF_SPREAD = 0.2
RENEW_SPREAD = 0.05
"""Renewal falls within 45 % and 55 % of a life, so that a fleet does not renew as one."""


class Priority(IntEnum):
    """Who goes first when fetches must wait; lower first."""

    NOW = 0
    WARM_UP = 1
    BACKGROUND = 2


class CertificateState(StrEnum):
    """What a person sees of an identity's certificate."""

    PENDING = "pending"
    VALID = "valid"
    EXPIRED = "expired"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """A certificate as far as its renewal is concerned."""

    serial: str
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the CA for a certificate now; report with `fetched` or `failed`."""

    identity: SpiffeId


@dataclass(frozen=True, slots=True)
class Expire:
    """The certificate ran out and none replaced it: the identity is unusable."""

    identity: SpiffeId


@dataclass(frozen=True, slots=True)
class Forget:
    """Nobody wants the identity any more: drop its key."""

    identity: SpiffeId


Action = Fetch | Expire | Forget


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """One line of `meshnode certs`; instants are seconds since the epoch, None if there is none.

    Attributes:
        last_error: why the last fetch failed; empty after a success.
        next_fetch_at: next renewal or try; None while a fetch is under way.
    """

    identity: SpiffeId
    state: CertificateState
    serial: str
    not_before: float | None
    not_after: float | None
    last_error: str
    next_fetch_at: float | None


@dataclass(slots=True, kw_only=True)
class _Entry:
    priority: Priority
    due_at: float
    held: Lifetime | None = None
    is_expired: bool = False
    failures: int = 0
    last_error: str = ""

    @property
    def urgency(self) -> tuple[Priority, float]:
        has_valid = self.held is not None and not self.is_expired
        return (Priority.BACKGROUND if has_valid else self.priority, self.due_at)

    def state(self) -> CertificateState:
        if self.is_expired:
            return CertificateState.EXPIRED
        if self.held is not None:
            return CertificateState.VALID
        return CertificateState.FAILED if self.failures else CertificateState.PENDING


class RotationPlan:
    """Plans the fetches of one node. `random` returns floats in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._entries: dict[SpiffeId, _Entry] = {}
        # May hold identities that are no longer wanted: their fetch still occupies a place.
        self._in_flight: set[SpiffeId] = set()

    def set_wanted(self, wanted: Mapping[SpiffeId, Priority], now: float) -> list[Action]:
        """Replace the set of identities this node needs."""
        gone = [identity for identity in self._entries if identity not in wanted]
        for identity in gone:
            del self._entries[identity]
        for identity, priority in wanted.items():
            entry = self._entries.setdefault(identity, _Entry(priority=priority, due_at=now))
            entry.priority = priority
        return [*map(Forget, gone), *self._start(now)]

    def fetched(self, identity: SpiffeId, lifetime: Lifetime, now: float) -> list[Action]:
        """A fetch brought a certificate; ask `holds` whether it was taken."""
        if now >= lifetime.not_after:
            return self.failed(
                identity, "the CA's certificate has already expired: compare the clocks", now
            )
        self._in_flight.discard(identity)
        entry = self._entries.get(identity)
        if entry is not None:
            share = 0.5 + RENEW_SPREAD * self._signed_random()
            begin = max(now, lifetime.not_before)
            entry.held, entry.is_expired = lifetime, False
            entry.failures, entry.last_error = 0, ""
            entry.due_at = begin + (lifetime.not_after - begin) * share
        return self.on_deadline(now)

    def holds(self, identity: SpiffeId, serial: str) -> bool:
        """Whether this certificate is the identity's current one; false once it expired."""
        entry = self._entries.get(identity)
        return (
            entry is not None
            and entry.held is not None
            and not entry.is_expired
            and entry.held.serial == serial
        )

    def failed(self, identity: SpiffeId, reason: str, now: float) -> list[Action]:
        """A fetch failed; `reason` is shown to people."""
        self._in_flight.discard(identity)
        entry = self._entries.get(identity)
        if entry is not None:
            exponent = min(entry.failures, 16)
            delay = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**exponent)
            entry.due_at = now + delay * (1 + BACKOFF_SPREAD * self._signed_random())
            entry.failures += 1
            entry.last_error = reason
            if entry.held is not None and now < entry.held.not_after:
                entry.due_at = min(entry.due_at, entry.held.not_after)
        return self.on_deadline(now)

    def on_deadline(self, now: float) -> list[Action]:
        """Take what is due: expiries and fetches. Calling it early does no harm."""
        actions: list[Action] = []
        for identity, entry in self._entries.items():
            if entry.held and not entry.is_expired and now >= entry.held.not_after:
                entry.is_expired = True
                actions.append(Expire(identity))
        return [*actions, *self._start(now)]

    def next_deadline(self) -> float | None:
        """When `on_deadline` will next have something to do; None: not before another fact."""
        return min(self._deadlines(), default=None)

    def statuses(self) -> list[CertificateStatus]:
        """Every wanted identity, in order."""
        return [self._status(identity) for identity in sorted(self._entries)]

    def _deadlines(self) -> Iterable[float]:
        has_place = len(self._in_flight) < MAX_CONCURRENT
        for identity, entry in self._entries.items():
            if entry.held and not entry.is_expired:
                yield entry.held.not_after
            if has_place and identity not in self._in_flight:
                yield entry.due_at

    def _start(self, now: float) -> list[Action]:
        due = [
            (entry.urgency, identity)
            for identity, entry in self._entries.items()
            if entry.due_at <= now and identity not in self._in_flight
        ]
        started = [identity for _, identity in sorted(due)][: self._places()]
        self._in_flight.update(started)
        return [Fetch(identity) for identity in started]

    def _places(self) -> int:
        return max(0, MAX_CONCURRENT - len(self._in_flight))

    def _signed_random(self) -> float:
        return 2.0 * self._random() - 1.0

    def _status(self, identity: SpiffeId) -> CertificateStatus:
        entry = self._entries[identity]
        held = entry.held
        return CertificateStatus(
            identity=identity,
            state=entry.state(),
            serial=held.serial if held else "",
            not_before=held.not_before if held else None,
            not_after=held.not_after if held else None,
            last_error=entry.last_error,
            next_fetch_at=None if identity in self._in_flight else entry.due_at,
        )
