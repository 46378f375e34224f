"""How many sockets a worker keeps in stock for each pod, family and kind. Pure bookkeeping.

A busy pod's connections find a socket without asking the holder; an idle pod costs none. The
batch doubles whenever the stock runs dry, and halves on every tick that used little of it, down
to nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from agent.holder.protocol import MAX_VEND, Family, SocketKind

FIRST_BATCH = 2

T = TypeVar("T")


class StashKey(NamedTuple):
    """What a stocked socket is good for."""

    uid: str
    family: Family
    kind: SocketKind


@dataclass(slots=True)
class _Shelf(Generic[T]):
    stock: deque[T] = field(default_factory=deque)
    target: int = FIRST_BATCH
    requested: int = 0
    wanted: int = 0
    taken: int = 0
    """Since the last tick."""


class Stash(Generic[T]):
    """Stock of items per key. Says how many to request and which to discard; does neither."""

    def __init__(self) -> None:
        self._shelves: dict[StashKey, _Shelf[T]] = {}

    def __len__(self) -> int:
        """Items in stock."""
        return sum(len(shelf.stock) for shelf in self._shelves.values())

    def take(self, key: StashKey) -> T | None:
        """An item, or None if the stock is empty. Ask `to_request` afterwards."""
        shelf = self._shelves.setdefault(key, _Shelf())
        shelf.target = max(FIRST_BATCH, shelf.target)
        if shelf.taken and not shelf.stock:
            shelf.target = min(MAX_VEND, shelf.target * 2)
        shelf.taken += 1
        return shelf.stock.popleft() if shelf.stock else None

    def wait(self, key: StashKey) -> None:
        """Somebody waits for the next item: request one more than the batch."""
        self._shelves.setdefault(key, _Shelf()).wanted += 1

    def stop_waiting(self, key: StashKey) -> None:
        """The one who waited got its item, or gave up."""
        shelf = self._shelves.get(key)
        if shelf is not None and shelf.wanted:
            shelf.wanted -= 1

    def to_request(self, key: StashKey) -> int:
        """How many items to request now, at most `MAX_VEND`; they count as requested from here on.

        0 while more than half of the batch is in stock or on its way.
        """
        shelf = self._shelves.get(key)
        if shelf is None:
            return 0
        coming = len(shelf.stock) + shelf.requested - shelf.wanted
        if coming > 0 and coming * 2 > shelf.target:
            return 0
        count = min(MAX_VEND, max(0, shelf.target - coming))
        shelf.requested += count
        return count

    def delivered(self, key: StashKey, requested: int, items: list[T]) -> list[T]:
        """Stock what a request for `requested` brought; returns items nobody can use any more."""
        shelf = self._shelves.get(key)
        if shelf is None:
            return items  # the pod closed meanwhile
        shelf.requested = max(0, shelf.requested - requested)
        shelf.stock.extend(items)
        return []

    def drain(self, uid: str) -> list[T]:
        """A pod changed its namespace: returns its items, to be discarded; requests stay."""
        drained: list[T] = []
        for key, shelf in self._shelves.items():
            if key.uid == uid:
                drained.extend(shelf.stock)
                shelf.stock.clear()
        return drained

    def forget(self, uid: str) -> list[T]:
        """A pod closed: returns its items, to be discarded."""
        keys = [key for key in self._shelves if key.uid == uid]
        return [item for key in keys for item in self._shelves.pop(key).stock]

    def tick(self) -> list[T]:
        """Every few seconds: returns what idle pods no longer need."""
        surplus: list[T] = []
        for key, shelf in tuple(self._shelves.items()):
            if shelf.taken < (shelf.target + 1) // 2:
                shelf.target = max(shelf.target // 2, FIRST_BATCH if shelf.taken else 0)
            shelf.taken = 0
            while len(shelf.stock) > shelf.target:
                surplus.append(shelf.stock.popleft())
            if not (shelf.target or shelf.requested or shelf.wanted):
                del self._shelves[key]
        return surplus

    def clear(self) -> list[T]:
        """Everything in stock, to be discarded."""
        uids = {key.uid for key in self._shelves}
        return [item for uid in uids for item in self.forget(uid)]
