"""The latest denials, one entry per pair and rule, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

MAX_DENIALS = 500
MAX_EXAMPLE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why somebody was turned away, how often, and when last.

    Attributes:
        policy: the object and rule that decided, as `authz check` names it; empty if none did.
        reason: one line for people, with the decision.
        example: the last one: its addresses, or method and path. Cut to 200 characters; it may
            come from a client and is shown escaped.
        last_at: seconds since the epoch.
    """

    reporter: str
    src: str
    src_identity: str
    dst: str
    service: str
    policy: str
    reason: str
    example: str
    count: int
    last_at: float


class Denials:
    """The pairs and rules that denied last.

    Args:
        clock: wall clock, seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float], limit: int = MAX_DENIALS) -> None:
        self._clock = clock
        self._limit = limit
        self._known: OrderedDict[tuple[str, ...], Denial] = OrderedDict()

    def add(self, denial: Denial) -> None:
        """Count one; the entry that was touched longest ago makes room."""
        key = (denial.reporter, denial.src, denial.dst, denial.service, denial.policy)
        known = self._known.pop(key, None)
        self._known[key] = replace(
            denial,
            example=denial.example[:MAX_EXAMPLE],
            count=denial.count + (known.count if known else 0),
            last_at=self._clock(),
        )
        if len(self._known) > self._limit:
            self._known.popitem(last=False)

    def latest(self) -> tuple[Denial, ...]:
        """All, the newest first."""
        return tuple(reversed(self._known.values()))
