"""Which objects differ between two sets that share what did not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from operator import is_not

from mesh.sources.objects import SourceObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What of a sequence is not where it was.

    Attributes:
        added, removed: by identity; a changed object is in both.
        moved: whether an object of these kinds changed its place among the others.
    """

    added: Sequence[SourceObject]
    removed: Sequence[SourceObject]
    moved_kinds: frozenset[str]


def difference(old: Sequence[SourceObject], new: Sequence[SourceObject]) -> Difference:
    """Compare by identity: 100,000 objects of which one changed take a few milliseconds."""
    common = min(len(old), len(new))
    moved = list(map(is_not, old, new))
    was = [*compress(old, moved), *old[common:]]
    now = [*compress(new, moved), *new[common:]]
    was_ids, now_ids = set(map(id, was)), set(map(id, now))
    return Difference(
        added=[item for item in now if id(item) not in was_ids],
        removed=[item for item in was if id(item) not in now_ids],
        moved_kinds=frozenset(item.kind for item in now) | {item.kind for item in was},
    )
