"""`did you mean`: the nearest known word."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Write `; did you mean 'x'?` for the nearest known word, or nothing."""
    folded = {item.lower(): item for item in known}
    close = get_close_matches(word.lower()[:64], folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""
