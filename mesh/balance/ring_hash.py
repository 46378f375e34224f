"""Consistent hashing on a ring: when one endpoint goes, only its own keys move (Karger)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from mesh.balance.hashing import hash64

Endpoint = TypeVar("Endpoint")


class HashRing(Generic[Endpoint]):
    """An immutable ring; build a new one when endpoints change."""

    __slots__ = ("_owners", "_points")

    def __init__(
        self, weights: Mapping[str, tuple[Endpoint, int]], *, min_size: int, max_size: int
    ) -> None:
        """`weights`: stable name -> endpoint and weight; weight 0 gets no point.

        The ring has at least `min_size` points, less than twice as many, and no more than
        `max_size` (except that every endpoint gets one).
        """
        used = {name: item for name, item in weights.items() if item[1] > 0}
        total = sum(weight for _, weight in used.values())
        each = _points_per_weight(total, min_size, max_size)
        points: list[tuple[int, Endpoint]] = []
        for name, (endpoint, weight) in used.items():
            count = max(1, round(each * weight))
            points += ((hash64(f"{name}_{number}"), endpoint) for number in range(count))
        points.sort(key=lambda item: item[0])
        self._points = [point for point, _ in points]
        self._owners = [endpoint for _, endpoint in points]

    def __len__(self) -> int:
        return len(self._points)

    def choose(self, key: int) -> Endpoint | None:
        """The owner of the first point at or after a hash; None on an empty ring."""
        if not self._points:
            return None
        return self._owners[bisect_left(self._points, key) % len(self._points)]

    def walk(self, key: int) -> Iterator[Endpoint]:
        """Owners in the order in which they take over; one may come several times."""
        start = bisect_left(self._points, key)
        for number in range(len(self._owners)):
            yield self._owners[(start + number) % len(self._owners)]


def _points_per_weight(total: int, min_size: int, max_size: int) -> float:
    """A power of two, so that an endpoint that comes or goes seldom changes those of the others:
    their keys would move too."""
    if not total:
        return 1.0
    each = 1 << max(0, (-(-min_size // total) - 1).bit_length())
    while each > 1 and each * total > max_size:
        each >>= 1
    return min(float(each), max_size / total)
