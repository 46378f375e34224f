"""Least-loaded choice of an endpoint: the better of two random ones (P2C).

Two random candidates are enough to keep the worst load close to the mean (Mitzenmacher), and
need no order over all endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

E = TypeVar("E")


def choose_least_loaded(endpoints: Sequence[E], load: Callable[[E], int], random: Random) -> E:
    """Choose one of at least one endpoint; `load` counts its active connections."""
    if len(endpoints) == 1:
        return endpoints[0]
    first, second = random.sample(endpoints, 2)
    # `sample` returns them in random order, so a tie is random too.
    return second if load(second) < load(first) else first
