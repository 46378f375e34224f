"""Maglev hashing: a table look-up per choice (Eisenbud et al., NSDI 2016, §3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from mesh.balance.hashing import hash64

Endpoint = TypeVar("Endpoint")


class MaglevTable(Generic[Endpoint]):
    """An immutable table of a prime size; build a new one when endpoints change."""

    __slots__ = ("_table",)

    def __init__(self, weights: Mapping[str, tuple[Endpoint, int]], *, size: int) -> None:
        """`weights`: stable name -> endpoint and weight; weight 0 gets no entry."""
        # In order of names: the table must not depend on the order of the endpoints.
        used = sorted((name, *item) for name, item in weights.items() if item[1] > 0)
        self._table: list[Endpoint] = []
        if used:
            self._table = [used[index][1] for index in _fill(used, size)]

    def choose(self, key: int) -> Endpoint | None:
        """The endpoint of a hash; None on an empty table."""
        return self._table[key % len(self._table)] if self._table else None

    def walk(self, key: int) -> Iterator[Endpoint]:
        """Owners in the order in which they take over; one may come several times."""
        for number in range(len(self._table)):
            yield self._table[(key + number) % len(self._table)]

    def entries(self) -> list[Endpoint]:
        """The table, for people and tests."""
        return list(self._table)


def _fill(used: list[tuple[str, Endpoint, int]], size: int) -> list[int]:
    """Let endpoints take turns, in proportion to weight, at their own order of slots."""
    table = [-1] * size
    steps = [
        (hash64(name, "offset") % size, hash64(name, "skip") % (size - 1) + 1)
        for name, _, _ in used
    ]
    tried = [0] * len(used)
    heaviest = max(weight for _, _, weight in used)
    credit = [0] * len(used)
    left = size
    while left:
        for index, (_, _, weight) in enumerate(used):
            credit[index] += weight
            if credit[index] < heaviest:
                continue
            credit[index] -= heaviest
            offset, skip = steps[index]
            slot = (offset + tried[index] * skip) % size
            while table[slot] >= 0:
                tried[index] += 1
                slot = (offset + tried[index] * skip) % size
            table[slot] = index
            tried[index] += 1
            left -= 1
            if not left:
                break
    return table
