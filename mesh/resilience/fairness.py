"""Fair shares of a proxy's capacity: no caller may crowd out the others.

Capacity is requests in flight. While much of it is free, anyone takes what is there; past
`free_share` of it a caller is held to an even share, with one share kept for whoever comes next.
Who was there early keeps what it has, but gets no more until it is below its share. Memory is
bounded by capacity: only callers with requests in flight are known.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import StrEnum
from typing import Generic, TypeVar

Caller = TypeVar("Caller", bound=Hashable)


class Admission(StrEnum):
    """What becomes of a request."""

    ADMITTED = "admitted"
    OVER_SHARE = "over_share"
    """Its caller has its share; others are let in."""
    FULL = "full"
    """The capacity is used up."""


class FairShare(Generic[Caller]):
    """Admission by caller (normally its SPIFFE ID). Every ADMITTED is followed by `release`."""

    __slots__ = ("_capacity", "_free", "_held", "_total")

    def __init__(self, capacity: int, free_share: float = 0.5) -> None:
        if capacity < 1 or not 0 <= free_share <= 1:
            raise ValueError("want a capacity of at least 1 and a free share of 0 to 1")
        self._capacity = capacity
        self._free = int(capacity * free_share)
        self._held: dict[Caller, int] = {}
        self._total = 0

    @property
    def in_flight(self) -> int:
        """Requests admitted and not yet released."""
        return self._total

    @property
    def callers(self) -> int:
        """Callers with requests in flight."""
        return len(self._held)

    def held(self, caller: Caller) -> int:
        """Requests of a caller in flight."""
        return self._held.get(caller, 0)

    def share(self) -> int:
        """What each caller may hold now, past the free part; at least one."""
        return max(1, self._capacity // (len(self._held) + 1))

    def admit(self, caller: Caller) -> Admission:
        """Ask for one more request of a caller."""
        if self._total >= self._capacity:
            return Admission.FULL
        held = self._held.get(caller, 0)
        if self._total >= self._free and held and held >= self.share():
            return Admission.OVER_SHARE
        self._held[caller] = held + 1
        self._total += 1
        return Admission.ADMITTED

    def release(self, caller: Caller) -> None:
        """End one admitted request of a caller."""
        held = self._held[caller]
        self._total -= 1
        if held == 1:
            del self._held[caller]
        else:
            self._held[caller] = held - 1
