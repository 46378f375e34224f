"""What processes that serve one service count together: the seam between limits and memory.

A limit is exact where its counts and buckets are shared; without, each process keeps to its part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

Taken = tuple[bool, int, float]
"""What became of one token: whether it was there, how many whole ones are left, and in how many
seconds there is another (0: now)."""


class Count(Protocol):
    """How many of something there are in all processes together."""

    def add(self, most: int) -> bool:
        """Add one, unless there are `most` already."""

    def force(self) -> None:
        """Add one in any case."""

    def sub(self, many: int = 1) -> None:
        """Take away as many of those that were added here."""

    def total(self) -> int: ...


class Sharing(Protocol):
    """Numbers by name, the same in all processes."""

    def key(self, name: str) -> int:
        """What a name is called in `bucket`."""

    def count(self, name: str) -> Count | None:
        """The count of a name; None if there is no room for one more."""

    def bucket(self, rate: float, burst: float) -> Callable[[int, float], Taken]:
        """Buckets that gain `rate` tokens a second up to `burst`: (key, instant) to a token."""

    def pacer(self, name: str, bytes_per_s: int) -> Callable[[int, float], float]:
        """A pace: (bytes, instant) to the seconds by which it is ahead of the clock."""


CountOf = Callable[[str], "Count | None"]


class OwnCount:
    """`Count` of one process alone."""

    __slots__ = ("_total",)

    def __init__(self) -> None:
        self._total = 0

    def add(self, most: int) -> bool:
        if self._total >= most:
            return False
        self._total += 1
        return True

    def force(self) -> None:
        self._total += 1

    def sub(self, many: int = 1) -> None:
        self._total -= many

    def total(self) -> int:
        return self._total


class NamedCounts:
    """One limit that holds for each of several (endpoints, callers), over all processes.

    What has no shared count is limited by this process alone, to its part.

    Args:
        part: of the limit, for such names.
    """

    __slots__ = ("_count_of", "_known", "_most", "_part")

    def __init__(self, count_of: CountOf, most: int, part: int) -> None:
        self._count_of = count_of
        self._most = most
        self._part = part
        self._known: dict[str, _Held] = {}

    def enter(self, name: str, *, force: bool = False) -> bool:
        """Count one more; False where the limit is reached."""
        held = self._held(name)
        count = held.count
        if count is None:
            if held.uses >= self._part and not force:
                return False
        elif force:
            count.force()
        elif not count.add(self._most):
            return False
        held.uses += 1
        return True

    def leave(self, name: str) -> None:
        """One that entered is gone."""
        held = self._known[name]
        held.uses -= 1
        if held.count is not None:
            held.count.sub()

    def leave_for_good(self, name: str) -> None:
        """The same, where a name without anybody may never come again."""
        self.leave(name)
        if not self._known[name].uses:
            del self._known[name]

    def is_full(self, name: str) -> bool:
        """Whether one more would be refused now."""
        held = self._held(name)
        if held.count is None:
            return held.uses >= self._part
        return held.count.total() >= self._most

    def keep(self, names: Iterable[str]) -> None:
        """Forget all others, as far as nobody is there."""
        wanted = set(names)
        for name, held in list(self._known.items()):
            if name not in wanted and not held.uses:
                del self._known[name]

    def _held(self, name: str) -> _Held:
        held = self._known.get(name)
        if held is None:
            held = self._known[name] = _Held(self._count_of(name))
        return held


class _Held:
    __slots__ = ("count", "uses")

    def __init__(self, count: Count | None) -> None:
        self.count = count
        self.uses = 0
