"""Numbers of several rounds to one number with its spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Median and extremes of the rounds."""

    median: float
    low: float
    high: float
    rounds: int


def summarise(samples: Sequence[float]) -> Summary:
    """Summarise one value per round; ValueError without any."""
    if not samples:
        raise ValueError("no round gave a value")
    return Summary(
        median=statistics.median(samples), low=min(samples), high=max(samples), rounds=len(samples)
    )


def ratio(ours: float, theirs: float) -> float | None:
    """Ours divided by theirs; None where nothing can be divided by."""
    return ours / theirs if theirs else None


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The items, beginning with another one each turn: nobody is always first or last."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]
